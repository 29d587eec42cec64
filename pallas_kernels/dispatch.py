"""The form of an op that fits where it runs: a TPU's or GPU's kernel, a CPU's loop, or plain JAX.

`jax.lax.platform_dependent` chooses by platform alone. That is not enough: XLA cannot split a
Mosaic kernel over devices, so on several TPU chips a program that leaves its sharding to the
compiler would not compile, and a loop over slices of a sharded array would run on every device
whole. This primitive chooses when it is lowered, where both are known: the form of the platform for
one device and within a `jax.shard_map` over every axis of the mesh, else plain JAX. GPU kernels are
for Hopper and later: their tiles fill the memory that older ones lack.
"""

import functools
from collections.abc import Callable

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir


def dispatch(
  *arrays: jax.Array,
  plain: Callable,
  tpu: Callable | None = None,
  gpu: Callable | None = None,
  cpu: Callable | None = None,
):
  """`tpu(*arrays)`, `gpu(*arrays)` or `cpu(*arrays)` on one such device, else `plain(*arrays)`.

  All take arrays and return a tuple of arrays of the same shapes and types. The gradient is the
  caller's to define: there is none here.
  """
  # Within shard_map all vary over the axes that any varies over, and so do the results.
  axes = frozenset().union(*(_varying(x) for x in arrays))
  arrays = tuple(
    jax.lax.pcast(x, tuple(sorted(axes - _varying(x))), to="varying") if axes - _varying(x) else x
    for x in arrays
  )
  return tuple(_choice.bind(*arrays, plain=plain, tpu=tpu, gpu=gpu, cpu=cpu))


def shape_like(operand: jax.Array, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
  """The shape of a `pallas_call`'s result, which varies over a mesh as its operand does."""
  return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(operand).manual_axis_type)


def _varying(x) -> frozenset:
  return jax.typeof(x).manual_axis_type.varying


_choice = Primitive("dispatch")
_choice.multiple_results = True


@_choice.def_impl
def _run(*arrays, plain, **forms):
  if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
    return plain(*arrays)
  return _compiled(*arrays, plain=plain, **forms)


@functools.partial(jax.jit, static_argnames=("plain", "tpu", "gpu", "cpu"))
def _compiled(*arrays, **forms):
  return _choice.bind(*arrays, **forms)


@_choice.def_abstract_eval
def _shapes(*avals, plain, **forms):
  del forms
  # The types in full, mesh included, so that the results' are those of the plain form.
  given = [
    jax.ShapeDtypeStruct(
      x.shape,
      x.dtype,
      sharding=None if x.sharding.mesh.empty else x.sharding,
      manual_axis_type=x.manual_axis_type,
    )
    for x in avals
  ]
  return jax.make_jaxpr(plain)(*given).out_avals


def _batch(arrays, dims, **forms):
  mapped = {name: form and jax.vmap(form, dims) for name, form in forms.items()}
  outs = dispatch(*arrays, **mapped)
  return outs, (0,) * len(outs)


def _lower(ctx, *arrays, platform, **forms):
  form = forms.get(platform) if _is_whole(ctx.module_context.axis_context) else None
  if platform == "gpu" and not has_hopper():
    form = None
  return mlir.lower_fun(form or forms["plain"], multiple_results=True)(ctx, *arrays)


def _is_whole(axis_context) -> bool:
  """Whether the program being lowered is one device's, not one that XLA will split."""
  if not hasattr(axis_context, "manual_axes"):
    return axis_context.num_devices == 1
  manual = axis_context.manual_axes | set(axis_context.mesh.manual_axes)
  return not axis_context.manual_axes or manual == frozenset(axis_context.mesh.axis_names)


@functools.cache
def has_hopper() -> bool:
  """Whether the GPU here, if there is one, is of Hopper's generation or later."""
  try:
    device = jax.devices("cuda")[0]
  except RuntimeError:  # A program for GPUs, lowered where there is none.
    return False
  return float(device.compute_capability) >= 9


batching.primitive_batchers[_choice] = _batch
mlir.register_lowering(_choice, functools.partial(_lower, platform=None))
for _platform, _name in {"tpu": "tpu", "cuda": "gpu", "cpu": "cpu"}.items():
  mlir.register_lowering(_choice, functools.partial(_lower, platform=_name), platform=_platform)
