"""A masked autoencoder of spectrograms: a ViT, and what it learns by.

Source: Huang et al., https://arxiv.org/abs/2207.06405 (AudioMAE); He et al.,
https://arxiv.org/abs/2111.06377. Its predictor's local attention is global here.
Shapes: spectrograms [B, T, F]; N patches, time outer and frequency inner; D features.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.layers.attend import Attend


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaeConfig:
  """The encoder.

  Attributes:
    frames, bands: of a spectrogram.
    patch: sides of a patch, in frames and in bands.
    width, num_heads, hidden, num_layers: of the Transformer.
    taps: last layers whose normed outputs are averaged into the features.
  """

  frames: int = 1024
  bands: int = 128
  patch: int = 16
  width: int = 768
  num_heads: int = 12
  hidden: int = 3072
  num_layers: int = 12
  taps: int = 3

  @property
  def grid(self) -> tuple[int, int]:
    """Patches along time and along frequency."""
    return self.frames // self.patch, self.bands // self.patch


def norm(name: str) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name=name)


class Block(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x)); every step sees every other."""

  num_heads: int
  hidden: int

  @nn.compact
  def __call__(self, x):
    width = x.shape[-1]
    qkv = nn.Dense(3 * width, name="qkv")(norm("attention_norm")(x))
    parts = qkv.reshape(*x.shape[:2], 3, self.num_heads, width // self.num_heads)
    y = Attend()(*(parts[:, :, i] for i in range(3))).reshape(x.shape)
    x = x + nn.Dense(width, name="out")(y)
    y = nn.Dense(self.hidden, name="up")(norm("mlp_norm")(x))
    return x + nn.Dense(width, name="down")(nn.gelu(y, approximate=False))


def patches(x, size: int):
  """[B, T, F] -> [B, N, size^2], within a patch time outer."""
  batch, frames, bands = x.shape
  x = x.reshape(batch, frames // size, size, bands // size, size)
  return x.transpose(0, 1, 3, 2, 4).reshape(batch, -1, size * size)


def positions(grid: tuple[int, int], width: int):
  """[1 + N, width], zeros for the class token.

  AudioMAE makes its table for the grid lying on its side and reads it in the order of upright
  patches. So the angles are no patch's time and frequency, yet each place has its own.
  """
  table = F.grid_sinusoids(grid[1], grid[0], width)
  return jnp.concatenate([jnp.zeros((1, width)), table])


class MaeEncoder(nn.Module):
  """Features of patches.

  Attributes:
    config: its shape.
  """

  config: MaeConfig

  def setup(self):
    config = self.config
    self.embedding = nn.Dense(config.width)
    shape = (1, 1, config.width)
    self.class_token = self.param("class_token", nn.initializers.normal(0.02), shape)
    self.positions = self.param("positions", lambda _: positions(config.grid, config.width))
    self.layers = [Block(config.num_heads, config.hidden) for _ in range(config.num_layers)]
    self.norm = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False)

  def _start(self, x, kept=None):
    # They are fixed, though stored.
    table = jax.lax.stop_gradient(self.positions)
    y = self.embedding(patches(x, self.config.patch)) + table[1:]
    if kept is not None:
      y = jnp.take_along_axis(y, kept[..., None], axis=1)
    first = jnp.broadcast_to(self.class_token + table[:1], (x.shape[0], 1, y.shape[-1]))
    return jnp.concatenate([first, y], axis=1)

  def __call__(self, x):
    """[B, T, F] -> [B, N, D]: the mean of the last layers' outputs, each normed."""
    y, found = self._start(x), []
    for layer in self.layers:
      y = layer(y)
      found.append(y)
    taps = found[-self.config.taps :]
    total = sum((self.norm(tap) for tap in taps[1:]), self.norm(taps[0]))
    return (total / len(taps))[:, 1:]

  def visible(self, x, kept):
    """What the encoder makes of the patches kept [B, M] alone: [B, 1 + M, D], the class first."""
    y = self._start(x, kept)
    for layer in self.layers:
      y = layer(y)
    return self.norm(y)


class MaePredictor(nn.Module):
  """All patches from the features of a few; training alone needs it.

  Attributes:
    config: of the encoder.
    width, num_heads, num_layers: its own.
  """

  config: MaeConfig
  width: int = 512
  num_heads: int = 16
  num_layers: int = 8

  @nn.compact
  def __call__(self, y, order):
    """Features [B, 1 + M, D] and an order of patches [B, N], the first M kept -> [B, N, size^2]."""
    token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.width))
    y = nn.Dense(self.width, name="embedding")(y)
    absent = jnp.broadcast_to(token, (y.shape[0], order.shape[1] + 1 - y.shape[1], self.width))
    rest = jnp.concatenate([y[:, 1:], absent], axis=1)
    back = jnp.argsort(order, axis=1)
    rest = jnp.take_along_axis(rest, back[..., None], axis=1)
    x = jnp.concatenate([y[:, :1], rest], axis=1) + positions(self.config.grid, self.width)
    for i in range(self.num_layers):
      x = Block(self.num_heads, 4 * self.width, name=f"layer_{i}")(x)
    return nn.Dense(self.config.patch**2, name="out")(norm("norm")(x)[:, 1:])


def masked_error(encoder, predictor, x, key, kept_share: float):
  """Mean squared error over the patches that the encoder did not see.

  Args:
    encoder, predictor: a `MaeEncoder` and a `MaePredictor`, bound.
    x: [B, T, F].
    kept_share: share of the patches of each row that is seen.
  """
  wanted = patches(x, encoder.config.patch)
  batch, count, _ = wanted.shape
  seen = max(1, int(count * kept_share))
  order = jnp.argsort(jax.random.uniform(key, (batch, count)), axis=1)
  found = predictor(encoder.visible(x, order[:, :seen]), order)
  each = jnp.square(found - wanted).mean(axis=-1)
  hidden = jnp.argsort(order, axis=1) >= seen
  return jnp.where(hidden, each, 0).sum() / (batch * (count - seen))
