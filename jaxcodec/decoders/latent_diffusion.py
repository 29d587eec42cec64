"""Sound from a condition: diffusion of latents, their decoder to a mel spectrum, and a vocoder.

Source: Liu et al., https://arxiv.org/abs/2301.12503 (AudioLDM), with the prediction of v.
Shapes: a condition [B, N, D], latents [B, T / s, M / s, Z] of s = `vae.stride`, mel [B, T, M].
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.decoders.hifigan import HifiGan, HifiGanConfig
from jaxcodec.decoders.vqgan import VqganDecoder
from jaxcodec.layers.unet import UNet, UNetConfig
from jaxcodec.layers.vqgan import VqganConfig

_STEPS, _FIRST, _LAST = 1000, 0.0015, 0.0195

# The published sizes.
_VAE = VqganConfig(
  width=128, multipliers=(1, 2, 4), num_blocks=2, attention_levels=(), latent_width=8
)
_UNET = UNetConfig()
_VOCODER = HifiGanConfig(width=1024, strides=(5, 4, 2, 2, 2), kernel_sizes=(17, 16, 8, 4, 4))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentDiffusionConfig:
  """The three networks and how they are run.

  Attributes:
    frames, bands: of the mel spectrum T x M.
    vae: the decoder of latents; `latent_width` Z.
    unet: the network of diffusion, of Z channels.
    vocoder: its hop length is a frame's.
    position_width: features that tell places of the condition apart.
    num_steps, guidance, eta: of the sampler, see `functional.diffusion`.
    seed: of the noise that it starts from and adds.
  """

  frames: int = 1024
  bands: int = 64
  vae: VqganConfig = _VAE
  unet: UNetConfig = _UNET
  vocoder: HifiGanConfig = _VOCODER
  position_width: int = 192
  num_steps: int = 50
  guidance: float = 2.0
  eta: float = 1.0
  seed: int = 0

  @property
  def latent_shape(self) -> tuple[int, int, int]:
    stride = self.vae.stride
    return self.frames // stride, self.bands // stride, self.vae.latent_width


class LatentDiffusion(nn.Module):
  """A condition [B, N, D] to a wave [B, T * hop, 1].

  Attributes:
    config: its shape.
  """

  config: LatentDiffusionConfig

  def setup(self):
    config = self.config
    stride, sides = config.vae.stride * config.unet.stride, (config.frames, config.bands)
    if any(side % stride for side in sides):
      raise ValueError(f"a spectrum of {sides}: multiples of {stride} needed")
    self.vae = VqganDecoder(config.vae, 1)
    self.unet = UNet(config.unet)
    self.vocoder = HifiGan(config.vocoder)
    # What makes the standard deviation of latents 1.
    self.latent_scale = self.param("latent_scale", nn.initializers.ones, ())

  def __call__(self, condition, key=None):
    """The wave that the sampler comes to; every row and every call of a key have the same noise.

    Args:
      key: of the noise; None for that of `config.seed`.
    """
    config = self.config
    if self.is_initializing():
      x = jnp.zeros((condition.shape[0], *config.latent_shape))
      return self.wave(self.mel(self.predict(x, jnp.zeros(len(x), jnp.int32), condition)))
    key = jax.random.key(config.seed) if key is None else key
    schedule = F.ddim_schedule(shares(), config.num_steps, config.eta)
    noises = jax.random.normal(key, (len(schedule.steps) + 1, *config.latent_shape))
    return self.wave(self.mel(self.sample(condition, noises)))

  def sample(self, condition, noises):
    """Latents from `noises` [1 + S, ...]: where the sampler starts, and what each step adds."""
    config = self.config
    schedule = F.ddim_schedule(shares(), config.num_steps, config.eta)
    batch = condition.shape[0]
    both = jnp.concatenate([jnp.zeros_like(condition), condition])
    unet, variables = self.unet.unbind()
    context = self.context(both)

    def predict(x, t):
      x, t = jnp.concatenate([x, x]), jnp.full(2 * batch, t)
      absent, present = jnp.split(unet.apply(variables, x, t, context), 2)
      return F.guided(absent, present, config.guidance)

    x = jnp.broadcast_to(noises[0], (batch, *config.latent_shape))
    return F.ddim(predict, x, noises[1:], schedule) / self.latent_scale

  def context(self, condition):
    """The condition and the places of its rows."""
    table = jnp.asarray(F.sinusoids(condition.shape[1], self.config.position_width))
    table = jnp.broadcast_to(table, (condition.shape[0], *table.shape))
    return jnp.concatenate([condition, table], axis=-1)

  def predict(self, x, t, condition):
    """v of latents x, of standard deviation 1, at steps t [B]."""
    return self.unet(x, t, self.context(condition))

  def mel(self, latents):
    """The log-mel spectrum of latents."""
    return self.vae(latents)[..., 0]

  def wave(self, mel):
    """The wave of a log-mel spectrum."""
    return self.vocoder(mel)[0]


def shares():
  """Of the clean sample, at each step of diffusion."""
  return F.clean_shares(_STEPS, _FIRST, _LAST)
