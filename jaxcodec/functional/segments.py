"""Cutting a long signal into overlapping segments and joining them again."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np


def overlap_add(segments, stride: int, length: int, sizes: Sequence[int] | None = None):
  """Joins segments by a weighted mean, each sample weighted by a triangle over its segment.

  Args:
    segments: `[B, S, N, C]`, segment s starting at sample `s * stride`; what lies past `length` in
      the last one is ignored.
    stride: samples between starts, with `N <= 2 * stride`.
    length: samples of the result, more than `(S - 1) * stride`.
    sizes: samples that each segment has, the rest of its N being padding; None for all N.

  Returns:
    `[B, length, C]`. No weight is zero: the triangle's end points lie outside the segment.
    Source: EnCodec, utils.py.
  """
  _, count, size, _ = segments.shape
  if size > 2 * stride:
    raise ValueError(f"segments of {size} overlap more than once at stride {stride}")
  inner = jnp.linspace(0.0, 1.0, size + 2)[1:-1]
  weight = 0.5 - jnp.abs(inner - 0.5)
  ends = np.full(count, size) if sizes is None else np.asarray(sizes)
  present = np.arange(size) < ends[:, None]
  weights = jnp.where(present, weight, 0.0)[None, :, :, None]

  def add(x):
    head, tail = x[:, :, :stride], x[:, :, stride:]
    tail = jnp.pad(tail, ((0, 0), (0, 0), (0, 2 * stride - size), (0, 0)))
    summed = jnp.pad(head, ((0, 0), (0, 1), (0, 0), (0, 0)))
    summed = summed + jnp.pad(tail, ((0, 0), (1, 0), (0, 0), (0, 0)))
    return summed.reshape(x.shape[0], (count + 1) * stride, x.shape[-1])[:, :length]

  return add(segments * weights) / add(weights)
