"""What every codec of rounded latents for pictures offers; a system's file adds its entropy model.

Shapes: pictures [B, H, W, 3] in [-1, 1], H and W multiples of `multiple`; latents y [B, H / 16,
W / 16, M]; side information z [B, H / 64, W / 64, N].
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcodec import functional as F


class Coded(NamedTuple):
  """A picture through a codec, as training and estimates see it.

  Attributes:
    x_hat: the decoded picture, [B, H, W, 3].
    y_hat: latents as the decoder has them.
    likelihoods: probabilities of "y" and, where there is side information, "z", elementwise;
      `functional.information_bits` of them add up to the bits of a file.
    aux_loss: of the medians of "z", to be added to the loss; it moves nothing else.
  """

  x_hat: jax.Array
  y_hat: jax.Array
  likelihoods: dict[str, jax.Array]
  aux_loss: jax.Array


class PictureCodec(nn.Module):
  """Analysis `g_a`, synthesis `g_s`, and of z the transforms `h_a`, `h_s` and `entropy_bottleneck`.

  A subclass makes them in `setup`, and says in `__call__` what prices the latents. With a `key`,
  for training, noise uniform in [-1/2, 1/2] stands for rounding wherever the paper has it so.

  Attributes:
    filters: channels N of the transforms.
    latents: channels M of y.
  """

  filters: int
  latents: int

  @property
  def multiple(self) -> int:
    """What height and width are multiples of."""
    return 64

  def analyse(self, x) -> tuple[Any, Any]:
    """`(y, z)` of pictures, before rounding."""
    y = self.g_a((x + 1) / 2)
    return y, self.h_a(y)

  def synthesise(self, y_hat):
    """Pictures of latents; they may leave [-1, 1]."""
    return 2 * self.g_s(y_hat) - 1

  def side_information(self, z, key, *, rounded: bool = False):
    """`(z_hat, likelihood)`; `rounded` says that z_hat is rounded in training too."""
    z_hat = F.round_about(z, self.entropy_bottleneck.medians())
    if key is None:
      return z_hat, self.entropy_bottleneck.likelihood(z_hat)
    noisy = F.uniform_noise(key, z)
    return z_hat if rounded else noisy, self.entropy_bottleneck.likelihood(noisy)

  def coded(self, y_hat, likelihood, of_z) -> Coded:
    likelihoods = {"y": likelihood, "z": of_z}
    aux_loss = self.entropy_bottleneck.quantile_loss()
    return Coded(self.synthesise(y_hat), y_hat, likelihoods, aux_loss)


def noisy_or_rounded(y, means, key):
  """Latents as their likelihood is taken: rounded about their means, or with noise for it."""
  return F.round_about(y, means) if key is None else F.uniform_noise(key, y)


def keys(key, count: int):
  """`count` keys, or Nones for None."""
  return [None] * count if key is None else jax.random.split(key, count)
