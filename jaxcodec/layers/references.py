"""What a slice of latents is foretold from besides side information: MLIC's references.

Shapes: C channels of a slice; every reference is [B, h, w, 2 C], of channels 4 C. Anchors are the
places whose row and column add up to an odd number; they are coded first.
Sources: Jiang et al., https://arxiv.org/abs/2307.15421 (MLIC++) with its code
(JiangWeibeta/MLIC, modules/transform/context.py); https://arxiv.org/abs/2504.19119 (MLICv2).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec import functional as F
from jaxcodec.layers.picture import Conv2d, Depthwise2d, gelu

WINDOW = 5
HEADS = 2
EPSILON = 1e-5  # Of the norms.


def anchors(height: int, width: int):
  """bool [h, w, 1]: the places that are coded first."""
  return ~F.checkerboard(height, width)


def known_in_windows(height: int, width: int) -> np.ndarray:
  """bool [h, w, W]: the anchors in the window about each place; outside the picture are none."""
  reach = WINDOW // 2
  grid = np.pad(np.add.outer(np.arange(height), np.arange(width)) % 2 == 1, reach)
  parts = [grid[i : i + height, j : j + width] for i in range(WINDOW) for j in range(WINDOW)]
  return np.stack(parts, axis=-1)


def channel_context(size: int) -> nn.Sequential:
  """Slices before, [B, h, w, i C], to 4 C channels."""
  layers = [Conv2d(6 * size, 3, 1), gelu, Conv2d(4 * size, 3, 1), gelu, Conv2d(4 * size, 3, 1)]
  return nn.Sequential(layers)


class LocalContext(nn.Module):
  """What the anchors within a window of 5 x 5 about each place say of it.

  Attributes:
    rotary: whether positions turn queries and keys, instead of a learned bias for each offset.
  """

  rotary: bool = False

  @nn.compact
  def __call__(self, x):
    """x [B, h, w, C], zeros but at anchors."""
    size, tokens = x.shape[-1], WINDOW * WINDOW
    x = nn.LayerNorm(EPSILON, use_fast_variance=False, name="norm1")(x)
    x = F.neighbours(nn.Dense(3 * size, name="qkv_proj")(x), WINDOW)
    # A head's features are HEADS apart on the way in and side by side on the way out.
    q, k, v = (
      part.reshape(*part.shape[:-1], -1, HEADS).swapaxes(-1, -2)
      for part in jnp.split(x, 3, axis=-1)
    )
    bias = jnp.zeros((HEADS, tokens, tokens))
    if self.rotary:
      angles = F.window_rotation(WINDOW, size // HEADS)
      q, k = turned(q, angles), turned(k, angles)
    else:
      offsets = (2 * WINDOW - 1) ** 2
      table = self.param("relative_position_table", nn.initializers.normal(0.02), (offsets, HEADS))
      bias = jnp.moveaxis(table[F.window_bias_index(WINDOW)], -1, 0)
    y = F.local_attention(q, k, v, bias, known_in_windows(*x.shape[1:3]))
    y = nn.Dense(2 * size, name="fusion")(y.reshape(*y.shape[:3], -1))
    y = nn.Dense(2 * size, name="proj")(y)
    hidden = nn.LayerNorm(EPSILON, use_fast_variance=False, name="norm2")(y)
    hidden = gelu(nn.Dense(4 * size, name="mlp_fc1")(hidden))
    return y + nn.Dense(2 * size, name="mlp_fc2")(hidden)


def turned(x, angles: np.ndarray):
  """x [..., W, H, D], its pairs of features (i, i + D / 2) turned by angles [W, D / 2]."""
  cosine, sine = (np.asarray(f(angles), np.float32)[:, None] for f in (np.cos, np.sin))
  first, second = jnp.split(x, 2, axis=-1)
  return jnp.concatenate([first * cosine - second * sine, first * sine + second * cosine], axis=-1)


def spread(size: int) -> nn.Sequential:
  """Queries, keys or values: a mix of channels, then each channel about a place."""
  return nn.Sequential([Conv2d(size, 1, 1), Depthwise2d()])


class GlobalIntra(nn.Module):
  """What anchors anywhere say of other places, by how alike the slice before was at the two.

  Attributes:
    size: channels C.
  """

  size: int

  def setup(self):
    self.queries, self.keys, self.values = (spread(self.size) for _ in range(3))
    self.merged = Merged(2 * self.size, 4 * self.size)

  def __call__(self, before, x):
    """`before` [B, h, w, C], the slice before; x [B, h, w, C], zeros but at anchors."""
    anchor = anchors(*x.shape[1:3])
    queries = self.queries(jnp.where(anchor, 0, before))
    keys = self.keys(jnp.where(anchor, before, 0))
    return self.merged(from_anchors(queries, keys, self.values(x)))


class GlobalFirst(nn.Module):
  """`GlobalIntra` for the slice that has none before: side information says what is alike.

  Attributes:
    size: channels C.
  """

  size: int

  def setup(self):
    self.queries, self.keys = Conv2d(self.size, 1, 1), Conv2d(self.size, 1, 1)
    self.values = spread(self.size)
    self.merged = Merged(2 * self.size, 4 * self.size)

  def __call__(self, side, x):
    """`side` [B, h, w, 2 M]; x [B, h, w, C], zeros but at anchors."""
    return self.merged(from_anchors(self.queries(side), self.keys(side), self.values(x)))


def from_anchors(queries, keys, values):
  """Values of anchors at all other places, by linear attention; [B, h, w, C] each."""
  batch, height, width, size = queries.shape
  anchor = anchors(height, width).reshape(-1)
  q, k, v = (x.reshape(batch, -1, HEADS, size // HEADS) for x in (queries, keys, values))
  return F.linear_attention(q, k, v, asks=~anchor, holds=anchor).reshape(queries.shape)


class Merged(nn.Module):
  """A 5 x 5 convolution, then a network beside the identity."""

  features: int
  hidden: int

  def setup(self):
    self.reprojection = Conv2d(self.features, 5, 1)
    self.mlp = mlp(self.features, self.hidden)

  def __call__(self, x):
    x = self.reprojection(x)
    return x + self.mlp(x)


class GlobalInter(nn.Module):
  """What slices before say of each place, by how alike they are to those of all other places.

  Attributes:
    size: channels C; there is a head for each slice.
  """

  size: int
  slices: int

  def setup(self):
    self.queries, self.keys, self.values = (spread(self.slices * self.size) for _ in range(3))
    self.reprojection = Conv2d(3 * self.size, 5, 1)
    self.mlp = mlp(2 * self.size, 4 * self.size)
    self.skip = Conv2d(2 * self.size, 1, 1)

  def __call__(self, before):
    """`before` [B, h, w, i C]."""
    batch = len(before)
    q, k, v = (
      part(before).reshape(batch, -1, self.slices, self.size)
      for part in (self.queries, self.keys, self.values)
    )
    x = self.reprojection(F.linear_attention(q, k, v).reshape(before.shape))
    return self.skip(x) + self.mlp(x)


def mlp(features: int, hidden: int) -> nn.Sequential:
  layers = [Conv2d(hidden, 1, 1), gelu, Depthwise2d(), gelu, Conv2d(features, 1, 1)]
  return nn.Sequential(layers)


class Reweighted(nn.Module):
  """References times factors of their channels, from the means of all of them over the picture.

  Every reference comes from what is decoded already, so the reader has the same means.
  """

  @nn.compact
  def __call__(self, x):
    """x [B, h, w, K], all references side by side."""
    means = x.mean(axis=(1, 2), keepdims=True)
    hidden = gelu(Conv2d(x.shape[-1] // 4, 1, 1, name="down")(means))
    return x * jax.nn.sigmoid(Conv2d(x.shape[-1], 1, 1, name="up")(hidden))
