"""What is added to attention's scores by distance, and the rotation that makes scores know it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Alibi:
  """A penalty in proportion to distance: -slope * |i + offset - j|; no gradient to the slopes.

  Attributes:
    slopes: [H], one for each query head; see `alibi_slopes`.
    offset: query i stands at key i + offset.

  Source: Press et al., https://arxiv.org/abs/2108.12409, section 3.
  """

  slopes: jax.Array
  offset: int = dataclasses.field(default=0, metadata={"static": True})


def alibi_slopes(num_heads: int) -> np.ndarray:
  """float32 [H]: 2^(-8h/H) for h = 1..H; where H is no power of two, the next ones' in between."""
  power = 1 << num_heads.bit_length() - 1
  slopes = [2.0 ** (-8 * h / power) for h in range(1, power + 1)]
  slopes += [2.0 ** (-4 * h / power) for h in range(1, 2 * (num_heads - power), 2)]
  return np.array(slopes, np.float32)


def t5_bias(
  table: jax.Array,
  queries: int,
  keys: int,
  *,
  bidirectional: bool,
  max_distance: int = 128,
  offset: int = 0,
) -> jax.Array:
  """T5's learned bias [1, H, Tq, Tk], by the bucket of the distance j - i - offset.

  Half of a direction's buckets are single distances; the others grow with the logarithm up to
  `max_distance`, and the last holds all beyond.

  Args:
    table: [num_buckets, H].
    queries: Tq.
    keys: Tk.
    bidirectional: whether keys after the query have buckets of their own, as in the encoder.
    max_distance: see above.
    offset: query i stands at key i + offset.

  Source: Raffel et al., https://arxiv.org/abs/1910.10683, section 2.1.

  Raises:
    ValueError: if the table has too few buckets.
  """
  least = 4 if bidirectional else 2
  if table.ndim != 2 or table.shape[0] < least:
    raise ValueError(f"table must be [num_buckets >= {least}, H], got shape {table.shape}")
  distance = np.arange(keys)[None] - np.arange(queries)[:, None] - offset
  buckets = table.shape[0]
  first = np.zeros_like(distance)
  if bidirectional:
    buckets //= 2
    first = np.where(distance > 0, buckets, 0)
    distance = np.abs(distance)
  else:
    distance = np.maximum(-distance, 0)
  exact = buckets // 2
  # float32 as in T5's own code: in float64 a distance on a bucket's edge could fall in another one.
  ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / np.float32(
    np.log(max_distance / exact)
  )
  coarse = np.minimum(exact + (ratio * (buckets - exact)).astype(np.int64), buckets - 1)
  bucket = first + np.where(distance < exact, distance, coarse)
  return jnp.moveaxis(table[bucket], -1, 0)[None]


def rotary(x: jax.Array, steps: jax.Array, base: float = 10_000.0) -> jax.Array:
  """Rotary position embedding of `x` [B, T, H, D]; the pairs are the two halves of the features.

  Args:
    x: queries or keys, D even.
    steps: positions, [T] or [B, T].
    base: of the frequencies.

  Source: Su et al., https://arxiv.org/abs/2104.09864, with the halves of GPT-NeoX.

  Raises:
    ValueError: if shapes do not fit or the number of features is odd.
  """
  if x.ndim != 4 or steps.shape not in (x.shape[1:2], x.shape[:2]):
    raise ValueError(f"x {x.shape} must be [B, T, H, D] and steps {steps.shape} [T] or [B, T]")
  if x.shape[-1] % 2:
    raise ValueError(f"rotary pairs need an even number of features, got shape {x.shape}")
  half = x.shape[-1] // 2
  frequency = base ** (-np.arange(half, dtype=np.float32) / half)
  angle = (steps[..., None].astype(jnp.float32) * frequency)[..., None, :]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  a, b = x[..., :half], x[..., half:]
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
