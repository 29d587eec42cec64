"""Vocos decoder: latents to short-time spectra at their own rate, and those to sound.

The idea: no layer raises the rate; a spectrum's inverse does, so all of the network is cheap.
Source: Siuzdak, https://arxiv.org/abs/2306.00814; github.com/gemelo-ai/vocos. The tables of its
adaptive norms have one row here: that of the condition which the codecs that use it always give.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.layers import reach
from jaxcodec.layers.chain import Chain
from jaxcodec.layers.conv import Conv1d
from jaxcodec.layers.convnext import ConvNeXtBlock, step_norm

# Magnitudes above it are cut, and get no gradient.
_LOUDEST = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocosConfig:
  """Shape of a Vocos decoder.

  Attributes:
    width: features of the stream.
    hidden: features within a block.
    num_layers: blocks.
    window_length: samples of a frame, a multiple of the hop length.
  """

  width: int = 768
  hidden: int = 2304
  num_layers: int = 12
  window_length: int = 1280

  def reach(self, hop_length: int) -> reach.Reach:
    """Latents that a sample depends on, of a decoder without a mixer."""
    found = reach.conv_transpose(reach.Reach(), self.window_length, hop_length, causal=False)
    for _ in range(self.num_layers + 1):
      found = reach.conv(found, 7, causal=False)
    return found


class VocosDecoder(nn.Module):
  """[B, F, D] -> ([B, F * hop_length, 1], state).

  Attributes:
    config: its shape.
    hop_length: samples between frames.
    mixer: what comes before the blocks, called as a layer; None for nothing.
  """

  config: VocosConfig
  hop_length: int
  mixer: nn.Module | None = None

  @nn.compact
  def __call__(self, z, state=None, final: bool = True, length=None):
    config, run = self.config, Chain(state, final, length)
    x = run(Conv1d(config.width, 7, causal=False, name="conv_in"), z)
    if self.mixer is not None:
      x = run(self.mixer, x)
    x = step_norm("norm_in", x)
    for i in range(config.num_layers):
      block = ConvNeXtBlock(config.hidden, 1 / config.num_layers, name=f"block_{i}")
      x = run(block, x)
    head = SpectrumHead(config.window_length, self.hop_length, name="head")
    return run(head, step_norm("norm_out", x)), run.after


class SpectrumHead(nn.Module):
  """Log magnitudes and phases of each step's frame, and the sound that they stand for."""

  window_length: int
  hop_length: int

  def absent_after(self, steps):
    return steps * self.hop_length

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    # float32 from here on: the exponential of a bfloat16 has two digits.
    y = nn.Dense(self.window_length + 2, name="out")(x).astype(jnp.float32)
    log_magnitude, phase = jnp.split(y, 2, axis=-1)
    magnitude = jnp.minimum(jnp.exp(log_magnitude), _LOUDEST)
    frames = F.inverse_frames(
      magnitude * jnp.cos(phase), magnitude * jnp.sin(phase), self.window_length
    )
    wave, state = F.overlap_frames(frames, self.hop_length, state, final=final, length=length)
    return wave[..., None], state
