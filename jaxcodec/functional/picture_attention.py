"""Attention over the places of a picture's latents: within small windows, and over all at once.

Shapes: B batch, h x w places, W = size^2 places of a window, H heads of D features.
Sources: Jiang et al., MLIC++, https://arxiv.org/abs/2307.15421, and its code
(JiangWeibeta/MLIC, modules/transform/context.py).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_FAR = -100.0  # What the authors' mask adds; with -inf a row without keys would have no softmax.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def neighbours(x, size: int):
  """What stands in the window about each place: [B, h, w, C] to [B, h, w, size^2, C].

  The window is read row by row; outside the picture there are zeros. `size` is odd. The gradient is
  written out as a loop, as that of slices takes long to compile.
  """
  reach, (height, width) = size // 2, x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
  parts = [padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
  return jnp.stack(parts, axis=3)


def _neighbours_fwd(x, size: int):
  return neighbours(x, size), None


def _neighbours_bwd(size: int, _, g):
  batch, height, width, _, features = g.shape
  start = jnp.zeros((batch, height + size - 1, width + size - 1, features), g.dtype)

  def add(total, tap):
    at = (0, tap[0] // size, tap[0] % size, 0)
    seen = jax.lax.dynamic_slice(total, at, tap[1].shape)
    return jax.lax.dynamic_update_slice(total, seen + tap[1], at), None

  total, _ = jax.lax.scan(add, start, (jnp.arange(size * size), jnp.moveaxis(g, 3, 0)))
  reach = size // 2
  return (total[:, reach : reach + height, reach : reach + width],)


neighbours.defvjp(_neighbours_fwd, _neighbours_bwd)


def local_attention(q, k, v, bias, known):
  """Every place of a window attends to the window: [B, h, w, W, H, D] to the same.

  Queries at places that are known see known keys alone. All others see every key, as the authors'
  code does, which takes the same 100 off each of their scores.

  Args:
    q, k, v: `[B, h, w, W, H, D]`.
    bias: `[H, W, W]`, added to the scores.
    known: bool `[h, w, W]`.
  """
  both = known[..., :, None] & known[..., None, :]
  scores = jnp.einsum("bijqhd,bijkhd->bijhqk", q, k) * q.shape[-1] ** -0.5 + bias
  scores = scores + jnp.where(both, 0.0, _FAR)[:, :, None]
  return jnp.einsum("bijhqk,bijkhd->bijqhd", jax.nn.softmax(scores, axis=-1), v)


def window_bias_index(size: int) -> np.ndarray:
  """int [W, W]: which of the (2 size - 1)^2 offsets leads from each key to each query."""
  rows, columns = np.divmod(np.arange(size * size), size)
  down = rows[:, None] - rows + size - 1
  right = columns[:, None] - columns + size - 1
  return down * (2 * size - 1) + right


def window_rotation(size: int, features: int, base: float = 100.0) -> np.ndarray:
  """float64 [W, features / 2]: the angles by which a head's pairs of features turn in a window.

  The first half of the pairs turns with the row and the other with the column, pair i of n by the
  position times base^(-i / n). So a score depends on the offset between query and key alone.
  Source: Su et al., https://arxiv.org/abs/2104.09864, for two axes.

  Raises:
    ValueError: if `features` is not a multiple of four.
  """
  if features % 4:
    raise ValueError(f"heads of {features} features cannot turn with rows and columns: use 4, 8...")
  speeds = base ** -(np.arange(features // 4) / (features // 4))
  rows, columns = np.divmod(np.arange(size * size), size)
  return np.concatenate([rows[:, None] * speeds, columns[:, None] * speeds], axis=-1)


def linear_attention(q, k, v, *, asks=True, holds=True):
  """Attention in time linear in the places: [B, N, H, D] queries, keys and values to [B, N, H, D].

  Keys are a softmax over places and queries one over their features, so a D x D product of keys and
  values stands for the N x N scores. Source: Shen et al., https://arxiv.org/abs/1812.01243.

  Args:
    asks: bool `[N]`, the places whose queries count; others are given zeros.
    holds: bool `[N]`, the places whose keys and values count.
  """
  asks, holds = (jnp.broadcast_to(there, q.shape[1:2])[:, None, None] for there in (asks, holds))
  k = jnp.where(holds, jax.nn.softmax(jnp.where(holds, k, -jnp.inf), axis=1), 0)
  q = jnp.where(asks, jax.nn.softmax(q, axis=-1), 0)
  context = jnp.einsum("bnhd,bnhe->bhde", k, v)
  return jnp.einsum("bhde,bnhd->bnhe", context, q)
