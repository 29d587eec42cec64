"""Cutting a long signal into overlapping segments and joining them again."""

import jax.numpy as jnp


def overlap_add(segments, stride: int, length: int, sizes=None):
  """Joins segments by a weighted mean, each sample weighted by a triangle over its segment.

  Args:
    segments: `[B, S, N, C]`, segment s starting at sample `s * stride`; what lies past `length` in
      the last one is ignored.
    stride: samples between starts, with `N <= 2 * stride`.
    length: samples of the result, more than `(S - 1) * stride`.
    sizes: int `[S]` or `[B, S]`, samples that each segment has, the rest of its N being padding;
      None for all N.

  Returns:
    `[B, length, C]`, zero where no segment is. No weight is zero: the triangle's end points lie
    outside the segment. Source: EnCodec, utils.py.
  """
  _, count, size, _ = segments.shape
  if size > 2 * stride:
    raise ValueError(f"segments of {size} overlap more than once at stride {stride}")
  inner = jnp.linspace(0.0, 1.0, size + 2)[1:-1]
  weight = 0.5 - jnp.abs(inner - 0.5)
  ends = jnp.full(count, size) if sizes is None else jnp.asarray(sizes)
  present = jnp.arange(size) < ends[..., None]
  weights = jnp.where(present, weight, 0.0)[..., None]
  weights = weights.reshape(-1, count, size, 1)

  def add(x):
    head, tail = x[:, :, :stride], x[:, :, stride:]
    tail = jnp.pad(tail, ((0, 0), (0, 0), (0, 2 * stride - size), (0, 0)))
    summed = jnp.pad(head, ((0, 0), (0, 1), (0, 0), (0, 0)))
    summed = summed + jnp.pad(tail, ((0, 0), (1, 0), (0, 0), (0, 0)))
    return summed.reshape(x.shape[0], (count + 1) * stride, x.shape[-1])[:, :length]

  total = add(weights)
  return jnp.where(total > 0, add(segments * weights) / jnp.where(total > 0, total, 1), 0)


def cross_fade(segments, stride: int, present=None):
  """Joins segments, where two overlap along a line from the one to the other.

  Args:
    segments: `[B, S, N, C]`, segment s starting at sample `s * stride`.
    stride: samples between starts, with `N <= 2 * stride`.
    present: bool `[B, S]`, those that a row has, from its first on; None for all. The last one
      that a row has is not faded out.

  Returns:
    `[B, (S - 1) * stride + N, C]`, zero where no segment is.
  """
  batch, count, size, channels = segments.shape
  if size > 2 * stride:
    raise ValueError(f"segments of {size} overlap more than once at stride {stride}")
  if present is None:
    present = jnp.ones((batch, count), bool)
  overlap = size - stride
  rise = jnp.concatenate([jnp.linspace(0, 1, overlap), jnp.ones(stride)])
  follows = jnp.pad(present[:, 1:], ((0, 0), (0, 1)))
  first = (jnp.arange(count) == 0)[:, None]
  weight = jnp.where(first, 1, rise) * jnp.where(follows[..., None], rise[::-1], 1)
  x = segments * jnp.where(present[..., None], weight, 0)[..., None]
  y = jnp.pad(x[:, :, :stride], ((0, 0), (0, 1), (0, 0), (0, 0)))
  tail = jnp.pad(x[:, :, stride:], ((0, 0), (1, 0), (0, stride - overlap), (0, 0)))
  y = (y + tail).reshape(batch, -1, channels)
  return y[:, : (count - 1) * stride + size]
