"""A TPU kernel where the compiler can place one, plain JAX everywhere else.

`jax.lax.platform_dependent` chooses by platform alone. That is not enough: XLA cannot split a
Mosaic kernel over devices, so on several TPU chips a program that leaves its sharding to the
compiler would not compile. This primitive chooses when it is lowered, where both are known: the
kernel for one TPU device and within a `jax.shard_map` over every axis of the mesh, else plain JAX.
"""

import functools
from collections.abc import Callable

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir


def tpu_or_plain(kernel: Callable, plain: Callable, *arrays: jax.Array):
  """`kernel(*arrays)` where a TPU kernel can run, `plain(*arrays)` elsewhere.

  Both take arrays and return a tuple of arrays of the same shapes and types. The gradient is the
  caller's to define: there is none here.
  """
  # Within shard_map all vary over the axes that any varies over, and so do the results.
  axes = frozenset().union(*(_varying(x) for x in arrays))
  arrays = tuple(
    jax.lax.pcast(x, tuple(sorted(axes - _varying(x))), to="varying") if axes - _varying(x) else x
    for x in arrays
  )
  return tuple(_choice.bind(*arrays, kernel=kernel, plain=plain))


def shape_like(operand: jax.Array, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
  """The shape of a `pallas_call`'s result, which varies over a mesh as its operand does."""
  return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(operand).manual_axis_type)


def _varying(x) -> frozenset:
  return jax.typeof(x).manual_axis_type.varying


_choice = Primitive("tpu_or_plain")
_choice.multiple_results = True


@_choice.def_impl
def _run(*arrays, kernel, plain):
  if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
    return plain(*arrays)
  return _compiled(*arrays, kernel=kernel, plain=plain)


@functools.partial(jax.jit, static_argnames=("kernel", "plain"))
def _compiled(*arrays, kernel, plain):
  return _choice.bind(*arrays, kernel=kernel, plain=plain)


@_choice.def_abstract_eval
def _shapes(*avals, kernel, plain):
  del kernel
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


def _batch(arrays, dims, *, kernel, plain):
  outs = tpu_or_plain(jax.vmap(kernel, dims), jax.vmap(plain, dims), *arrays)
  return outs, (0,) * len(outs)


def _lower_plain(ctx, *arrays, kernel, plain):
  del kernel
  return mlir.lower_fun(plain, multiple_results=True)(ctx, *arrays)


def _lower_tpu(ctx, *arrays, kernel, plain):
  chosen = kernel if _places_kernels(ctx.module_context.axis_context) else plain
  return mlir.lower_fun(chosen, multiple_results=True)(ctx, *arrays)


def _places_kernels(axis_context) -> bool:
  if hasattr(axis_context, "manual_axes"):
    manual = axis_context.manual_axes | set(axis_context.mesh.manual_axes)
    return not axis_context.manual_axes or manual == frozenset(axis_context.mesh.axis_names)
  return axis_context.num_devices == 1


batching.primitive_batchers[_choice] = _batch
mlir.register_lowering(_choice, _lower_plain)
mlir.register_lowering(_choice, _lower_tpu, platform="tpu")
