"""C3: a picture as grids of integers and two tiny networks, all of them fitted to it alone.

Grid k has one number for each 2^k x 2^k pixels. An autoregressive network, the same for all grids,
says how likely each integer is; another makes pixels of the grids, stretched to the picture's size.

Shapes: H x W pixels, K grids [ceil(H / 2^k), ceil(W / 2^k)], N numbers of all grids together.
Source: Kim et al., https://arxiv.org/abs/2312.02753; Ladune et al.,
https://arxiv.org/abs/2212.05458 (COOL-CHIC); google-deepmind/c3_neural_compression, model/.
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

SHIFT = 8.0  # Added to what the network says of scales.
LEAST_SCALE, MOST_SCALE = 1e-3, 150.0


class EntropyNetwork(nn.Module):
  """Where an integer lies, by those before it: Laplace densities of grids.

  Attributes:
    widths: channels of the layers between.
    context: rows and columns on each side that are seen, of those that come earlier in reading
      order: 2 c (c + 1) numbers.
  """

  widths: tuple[int, ...] = (18, 18)
  context: int = 3

  @nn.compact
  def __call__(self, contexts):
    """`(loc [N], scale [N])` in the unit of the grids, from `contexts_of`'s [N, taps]."""
    y = _mlp(contexts, (*self.widths, 2))
    low, high = -2 * math.log(MOST_SCALE), -2 * math.log(LEAST_SCALE)
    return y[..., 0], jnp.exp(-0.5 * jnp.clip(y[..., 1] + SHIFT, low, high))


class Synthesis(nn.Module):
  """Grids stretched to a picture's size [H, W, K] to its pixels [H, W, 3], in [0, 1] once clipped.

  Attributes:
    widths: channels of the layers that see one place at a time.
    residuals: 3 x 3 convolutions at the end, each beside the identity.
  """

  widths: tuple[int, ...] = (18, 18)
  residuals: int = 2

  @nn.compact
  def __call__(self, x):
    y = _mlp(x, (*self.widths, 3))
    for n in range(self.residuals):
      name = f"residual_{n}"
      kernel = self.param(f"{name}_kernel", nn.initializers.zeros, (27, 3))
      bias = self.param(f"{name}_bias", nn.initializers.zeros, (3,))
      y = y + _around(y) @ kernel + bias
      y = nn.gelu(y) if n < self.residuals - 1 else y
    return y


def _mlp(x, widths: Sequence[int]):
  """Dense layers with GELU between them, within the module that calls."""
  for n, width in enumerate(widths):
    init = nn.initializers.truncated_normal(1 / math.sqrt(x.shape[-1]))
    x = nn.Dense(width, kernel_init=init, name=f"layer_{n}")(nn.gelu(x) if n else x)
  return x


def grid_shapes(height: int, width: int, num_grids: int) -> list[tuple[int, int]]:
  """Rows and columns of each grid, the finest first."""
  return [(-(-height // 2**k), -(-width // 2**k)) for k in range(num_grids)]


def taps_of(context: int) -> list[tuple[int, int]]:
  """Offsets of what a number's context consists of, in reading order."""
  offsets = range(-context, context + 1)
  return [
    (row, column) for row in range(-context, 1) for column in offsets if (row, column) < (0, 0)
  ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def contexts_of(numbers, shapes: tuple[tuple[int, int], ...], context: int):
  """[N, taps] of the numbers [N] of all grids: what stands before each in its grid, zeros outside.

  Its gradient is gathered too: what scatters is slow, and slices by the hundred compile for long.
  """
  return _extended(numbers)[_beside(shapes, context, 1)]


def _contexts_fwd(numbers, shapes, context):
  return contexts_of(numbers, shapes, context), None


def _contexts_bwd(shapes, context, _, g):
  found = _extended(g)[_beside(shapes, context, -1), jnp.arange(g.shape[1])]
  return (found.sum(axis=1),)


contexts_of.defvjp(_contexts_fwd, _contexts_bwd)


def _beside(shapes, context: int, sign: int):
  """int32 [N, taps]: the number at each tap, or for `sign` -1 that whose tap it is; N for none."""
  down, right = (sign * np.array(offsets) for offsets in zip(*taps_of(context), strict=True))
  found, first, none = [], 0, sum(height * width for height, width in shapes)
  for height, width in shapes:
    rows = jnp.arange(height)[:, None, None] + down
    columns = jnp.arange(width)[:, None] + right
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = jnp.where(inside, first + rows * width + columns, none)
    found.append(places.reshape(height * width, -1))
    first += height * width
  return jnp.concatenate(found)


def _extended(x):
  """Zeros after the last."""
  return jnp.concatenate([x, jnp.zeros_like(x[:1])])


def stretched(grids, height: int, width: int):
  """Grids as channels [H, W, K] of a picture: bilinear, between the middles of pixels."""
  full = [jax.image.resize(grid, (height, width), "bilinear") for grid in grids]
  return jnp.stack(full, axis=-1)


def _around(x):
  """[H, W, 9 C]: the 3 x 3 pixels about each, those outside as at the edge."""
  height, width, _ = x.shape
  padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
  parts = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
  return jnp.concatenate(parts, axis=-1)
