"""Nearest entry of a codebook that lies over the devices of a mesh axis."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P

from pallas_kernels.nearest_code.op import Metric, Scoring, nearest_code
from pallas_kernels.nearest_code.reference import direction


def sharded_nearest_code(
  z: jax.Array,
  codebook: jax.Array,
  *,
  mesh: Mesh,
  entries_axis: str,
  rows_axis: str | None = None,
  metric: Metric = "l2",
  scoring: Scoring = "float32",
  candidates: int = 4,
) -> jax.Array:
  """`nearest_code` where each device holds and searches a part of the entries.

  Each device finds the nearest of its own entries; of these the nearest wins, by a float32 distance
  that every device computes alike, and of equals the lowest index. Between devices pass a distance
  and an index a vector.

  Args:
    z: `[N, ..., D]`, as are the options, of `nearest_code`.
    codebook: `[K, D]`.
    mesh: the devices.
    entries_axis: the axis of the mesh that K lies over.
    rows_axis: the axis that N lies over; None where each device has all vectors.

  Returns:
    int32 `[N, ...]`, over the devices as `z` is.

  Raises:
    ValueError: as `nearest_code`, or if an axis does not divide what lies over it.
  """
  if codebook.shape[0] % mesh.shape[entries_axis]:
    raise ValueError(
      f"{codebook.shape[0]} entries do not fall on {mesh.shape[entries_axis]} devices of "
      f"axis {entries_axis!r}"
    )
  if rows_axis is not None and z.shape[0] % mesh.shape[rows_axis]:
    raise ValueError(
      f"z {z.shape} does not fall on {mesh.shape[rows_axis]} devices of axis {rows_axis!r}"
    )
  search = functools.partial(nearest_code, metric=metric, scoring=scoring, candidates=candidates)

  def part(z, codebook):
    code = search(z, codebook)
    entries = codebook.astype(jnp.float32)
    entries = direction(entries)[code] if metric == "cosine" else entries[code]
    apart = z - entries if metric == "l2" else -entries
    score = jnp.sum(apart * (apart if metric == "l2" else z), axis=-1)
    least = jax.lax.pmin(score, entries_axis)
    first = jax.lax.axis_index(entries_axis) * codebook.shape[0]
    total = codebook.shape[0] * mesh.shape[entries_axis]
    code = jax.lax.pmin(jnp.where(score == least, first + code, total), entries_axis)
    return jnp.where(code < total, code, 0)  # Of a row with a NaN no score is least.

  z, codebook = jax.lax.stop_gradient((z, codebook))
  return jax.shard_map(
    part, mesh=mesh, in_specs=(P(rows_axis), P(entries_axis)), out_specs=P(rows_axis)
  )(z, codebook)
