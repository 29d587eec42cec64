"""What every codec of rounded latents for pictures offers; a system's file adds its entropy model.

Shapes: pictures [B, H, W, 3] in [-1, 1], H and W multiples of `multiple`; latents y [B, H / 16,
W / 16, M]; side information z [B, H / 64, W / 64, N].
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F


class Coded(NamedTuple):
  """A picture through a codec, as training and estimates see it.

  Attributes:
    x_hat: the decoded picture, [B, H, W, 3].
    y_hat: latents as the decoder has them.
    likelihoods: probabilities of "y" and, where there is side information, "z", elementwise;
      `functional.information_bits` of them add up to the bits of a file.
    aux_loss: of the medians of "z", to be added to the loss; it moves nothing else.
    penalty: to be added to the loss, [B] or 0: of latents that a file leaves out, see `image.mlic`.
  """

  x_hat: jax.Array
  y_hat: jax.Array
  likelihoods: dict[str, jax.Array]
  aux_loss: jax.Array
  penalty: jax.Array | float = 0.0


# `(z, means)` to z at whole steps from the means, or to what stands for it.
Rounded = Callable[[Any, Any], Any]


class PictureCodec(nn.Module):
  """Analysis `g_a`, synthesis `g_s`, and of z the transforms `h_a`, `h_s` and `entropy_bottleneck`.

  A subclass makes them in `setup`, and says in `code` what prices the latents. With a `key`, for
  training, noise uniform in [-1/2, 1/2] stands for rounding wherever the paper has it so.

  With `levels` one model has many rates: y is multiplied by gains [M] before it is rounded, and by
  others before synthesis. A `quality` from 0 to `levels` - 1, one for all pictures or [B], says
  which: between two levels the logarithms of their gains are mixed. What lies between sees the
  multiplied latents alone. Source: Cui et al., https://arxiv.org/abs/2003.02012, section 3.

  Attributes:
    filters: channels N of the transforms.
    latents: channels M of y.
    levels: qualities that have gains of their own; 0 for a model of one rate.
  """

  filters: int
  latents: int
  levels: int = 0

  @property
  def multiple(self) -> int:
    """What height and width are multiples of."""
    return 64

  def setup(self):
    if self.levels:
      self.gains, self.inverse_gains = (Gains(self.levels, self.latents, s) for s in (1.0, -1.0))

  def __call__(self, x, key=None, quality=None, **how) -> Coded:
    """Pictures through the codec, as training and estimates see it; `how` is of `code`."""
    return self.code(*self.analyse(x, quality), key, quality, **how)

  def code(self, y, z, key=None, quality=None, rounded: Rounded = F.round_about) -> Coded:
    """As `__call__`, from latents before rounding; `rounded` is how they are rounded."""
    raise NotImplementedError

  def analyse(self, x, quality=None) -> tuple[Any, Any]:
    """`(y, z)` of pictures, before rounding."""
    y = self.latents_of(x, quality)
    return y, self.side(y)

  def latents_of(self, x, quality=None):
    """y of pictures, whose sides need only be multiples of 16."""
    y = self.g_a((x + 1) / 2)
    return y * self.gains(quality) if self.levels else y

  def side(self, y):
    """z of y."""
    return self.h_a(y)

  def synthesise(self, y_hat, quality=None):
    """Pictures of latents; they may leave [-1, 1]."""
    if self.levels:
      y_hat = y_hat * self.inverse_gains(quality)
    return 2 * self.g_s(y_hat) - 1

  def side_information(self, z, key, rounded: Rounded, *, always: bool = False):
    """`(z_hat, likelihood)`; `always` says that z_hat is rounded in training too."""
    z_hat = rounded(z, self.entropy_bottleneck.medians())
    if key is None:
      return z_hat, self.entropy_bottleneck.likelihood(z_hat)
    noisy = F.uniform_noise(key, z)
    return z_hat if always else noisy, self.entropy_bottleneck.likelihood(noisy)

  def coded(self, y_hat, likelihood, of_z, quality) -> Coded:
    likelihoods = {"y": likelihood, "z": of_z}
    aux_loss = self.entropy_bottleneck.quantile_loss()
    return Coded(self.synthesise(y_hat, quality), y_hat, likelihoods, aux_loss)


class Gains(nn.Module):
  """Factors [..., M] of latents at a quality; they start a factor of ten apart from end to end.

  Attributes:
    levels, latents: as of `PictureCodec`.
    sign: 1 for factors that start by growing with quality, -1 for falling ones.
  """

  levels: int
  latents: int
  sign: float

  @nn.compact
  def __call__(self, quality):
    """`quality` [] or [B]; factors [M] or [B, 1, 1, M]."""
    if quality is None:
      raise ValueError("a model of many rates needs a quality")
    shape, ends = (self.levels, self.latents), self.sign * math.log(10) / 2
    start = jnp.broadcast_to(jnp.linspace(-ends, ends, self.levels)[:, None], shape)
    logs = self.param("logarithms", lambda key: start)
    quality = jnp.asarray(quality, jnp.float32)
    share = jnp.maximum(1 - jnp.abs(quality[..., None] - jnp.arange(self.levels)), 0)
    factors = jnp.exp(jnp.matmul(share, logs, precision=jax.lax.Precision.HIGHEST))
    return factors[:, None, None] if quality.ndim else factors


def rate_distortion(x, coded: Coded, trade_off, there=None):
  """`(bits, squared_error, loss)` of each picture [B].

  Bits are a pixel's, the squared error is that of samples from 0 to 255, and the loss is bits plus
  `trade_off` times the error: lambda as in Ballé et al., https://arxiv.org/abs/1802.01436, as
  CompressAI counts it. `there` [H, W, 1] is one for pixels that count, None for all.
  """
  there = jnp.ones((*x.shape[1:3], 1), x.dtype) if there is None else there
  pixels = there.sum()
  each = [F.information_bits(p).reshape(len(x), -1).sum(axis=1) for p in coded.likelihoods.values()]
  bits = sum(each[1:], each[0]) / pixels
  squared = there * jnp.square(127.5 * (coded.x_hat - x))
  squared = squared.sum(axis=(1, 2, 3)) / (pixels * x.shape[-1])
  return bits, squared, bits + trade_off * squared


def priced(y, y_hat, key):
  """Latents as their likelihood is taken: as they are rounded, or with noise for it."""
  return y_hat if key is None else F.uniform_noise(key, y)


def keys(key, count: int):
  """`count` keys, or Nones for None."""
  return [None] * count if key is None else jax.random.split(key, count)
