"""Where each array of a run lies: a mesh of three axes, and rules from paths to placements."""

import functools
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import pallas_kernels as kernels
from jaxcodec.layers.attend import Attend
from jaxcodec.training.config import Mesh

BATCH = P(("data", "fsdp"))


def make_mesh(mesh: Mesh, devices=None) -> jax.sharding.Mesh:
  """A mesh (data, fsdp, model) of all devices.

  Raises:
    ValueError: if the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [mesh.data, mesh.fsdp, mesh.model]
  known = int(np.prod([size for size in sizes if size != -1]))
  free = sizes.count(-1)
  if free > 1 or known < 1 or len(devices) % known or (not free and known != len(devices)):
    raise ValueError(
      f"mesh data={mesh.data} fsdp={mesh.fsdp} model={mesh.model} does not fit "
      f"{len(devices)} devices"
    )
  sizes = [len(devices) // known if size == -1 else size for size in sizes]
  return jax.make_mesh(
    tuple(sizes), ("data", "fsdp", "model"), axis_types=(AxisType.Auto,) * 3, devices=devices
  )


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Rows over `data` and `fsdp`."""
  return NamedSharding(mesh, BATCH)


def rows_apart(call, args, kwargs, context):
  """For `nn.intercept_methods`: each device attends to the rows and heads that lie on it.

  XLA cannot split the kernel of attention over devices. Left to itself it takes the plain form, a
  program that is several times as large. Within a mesh alone, the one that `jax.set_mesh` names.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if not isinstance(context.module, Attend) or mesh.empty:
    return call(*args, **kwargs)
  attention = functools.partial(kernels.attention, mask=context.module.mask)
  divides = all(x.shape[2] % mesh.shape["model"] == 0 for x in args)
  place = P(*BATCH, None, "model") if divides else BATCH
  return jax.shard_map(attention, mesh=mesh, in_specs=place, out_specs=place)(*args)


def check_batch(batch_size: int, accumulate: int, mesh: jax.sharding.Mesh) -> None:
  """Raises ValueError for a batch that parts, devices and processes do not divide."""
  rows = mesh.shape["data"] * mesh.shape["fsdp"]
  if accumulate < 1 or batch_size % (rows * accumulate) or batch_size < 1:
    raise ValueError(
      f"batch_size={batch_size} is no multiple of data x fsdp x accumulate = {rows * accumulate}"
    )


def state_shardings(shapes, mesh: jax.sharding.Mesh, config: Mesh) -> Any:
  """A tree of shardings for a tree of shapes: the first rule whose pattern a path holds, or FSDP.

  Optimizers and averages hold the names of the parameters in their paths, so rules reach them too.

  Raises:
    ValueError: if a rule's placement does not divide an array.
  """

  def place(path, leaf):
    return NamedSharding(mesh, _spec(path, leaf.shape, mesh, config))

  return jax.tree_util.tree_map_with_path(place, shapes)


def gathered(params, config: Mesh):
  """`params` that no longer lie over `fsdp`, for a whole step; their gradients come back split.

  Where the mesh's rules have each layer's weights gathered as it is computed, forth and back, XLA
  does so as often as it uses them. Within a mesh alone, the one that `jax.set_mesh` names.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return params

  def gather(path, leaf):
    split = _spec(path, leaf.shape, mesh, config)
    return _moved(leaf, P(*(None if axes == "fsdp" else axes for axes in split)), split)

  return jax.tree_util.tree_map_with_path(gather, params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _moved(x, spec: P, back: P):
  return jax.lax.with_sharding_constraint(x, spec)


_moved.defvjp(
  lambda x, spec, back: (_moved(x, spec, back), None),
  lambda spec, back, _, g: (jax.lax.with_sharding_constraint(g, back),),
)


def _spec(path, shape: tuple[int, ...], mesh, config: Mesh) -> P:
  name = jax.tree_util.keystr(path, simple=True, separator="/")
  for pattern, spec in config.rules:
    if re.search(pattern, name):
      return _checked(spec, name, shape, mesh)
  return _fsdp(shape, mesh.shape["fsdp"], config.fsdp_smallest)


def _checked(spec: P, name: str, shape: tuple[int, ...], mesh) -> P:
  if len(spec) > len(shape):
    # A scalar that an optimizer keeps under a parameter's name.
    return P()
  for size, axes in zip(shape, spec, strict=False):
    axes = axes if isinstance(axes, tuple) else (axes,)
    parts = int(np.prod([mesh.shape[axis] for axis in axes if axis is not None]))
    if size % parts:
      raise ValueError(f"{name} of shape {shape} does not divide by {spec} of mesh {mesh.shape}")
  return spec


def _fsdp(shape: tuple[int, ...], parts: int, smallest: int) -> P:
  fitting = [axis for axis, size in enumerate(shape) if size % parts == 0]
  if parts == 1 or not fitting or np.prod(shape) < smallest:
    return P()
  largest = max(fitting, key=lambda axis: shape[axis])
  return P(*(("fsdp" if axis == largest else None) for axis in range(largest + 1)))
