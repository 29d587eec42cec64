"""A Transformer that reads one sequence and writes another, its layers scanned over.

Pre-norm with RMSNorm, rotary positions, gated feed-forward parts, no biases: the shape of T5,
https://arxiv.org/abs/1910.10683, with the parts of LLaMA, https://arxiv.org/abs/2302.13971.
Shapes: B rows, T steps, S steps of the memory, D features.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

import pallas_kernels as kernels
from jaxcodec.layers.attend import Attend
from pallas_kernels.attention import Causal, Mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
  """Both stacks.

  Attributes:
    width: features D of the stream.
    num_heads, head_width: of attention.
    hidden: of the feed-forward parts.
    encoder_layers, decoder_layers: of each stack.
    base: of the rotary embedding's frequencies.
  """

  width: int
  num_heads: int
  head_width: int
  hidden: int
  encoder_layers: int
  decoder_layers: int
  base: float = 10_000.0


def norm(name: str) -> nn.RMSNorm:
  return nn.RMSNorm(epsilon=1e-6, name=name)


class Attention(nn.Module):
  """Steps of x [B, T, D] to those of a memory [B, S, D], x itself if None.

  Attributes:
    config: of the stacks.
    mask: which steps each one sees; None for all.
  """

  config: EncoderDecoderConfig
  mask: Mask | None = None

  @nn.compact
  def __call__(self, x, memory=None):
    config = self.config

    def heads(x, name: str):
      y = nn.Dense(config.num_heads * config.head_width, use_bias=False, name=name)(x)
      return y.reshape(*x.shape[:2], config.num_heads, config.head_width)

    seen = x if memory is None else memory
    q, k, v = heads(x, "query"), heads(seen, "key"), heads(seen, "value")
    if memory is None:
      steps = jnp.arange(x.shape[1])
      q, k = (kernels.rotary(part, steps, config.base) for part in (q, k))
    y = Attend(self.mask)(q, k, v)
    return nn.Dense(config.width, use_bias=False, name="out")(y.reshape(*x.shape[:2], -1))


class Layer(nn.Module):
  """`(x, memory) -> (x, None)`, as a scan calls it; with a memory, steps see none after them.

  Attributes:
    config: of the stacks.
  """

  config: EncoderDecoderConfig

  @nn.compact
  def __call__(self, x, memory=None):
    config = self.config
    mask = None if memory is None else Causal()
    x = x + Attention(config, mask, name="attention")(norm("attention_norm")(x))
    if memory is not None:
      x = x + Attention(config, name="cross")(norm("cross_norm")(x), memory)
    y = norm("feed_forward_norm")(x)
    gate, up = (nn.Dense(config.hidden, use_bias=False, name=name)(y) for name in ("gate", "up"))
    return x + nn.Dense(config.width, use_bias=False, name="down")(nn.silu(gate) * up), None


class Stack(nn.Module):
  """Layers, their weights below "layers" with the layers as first axis; then a norm.

  Attributes:
    config: of the stacks.
    length: layers.
    remat: whether each layer is computed again on the way back.
  """

  config: EncoderDecoderConfig
  length: int
  remat: bool = False

  @nn.compact
  def __call__(self, x, memory=None):
    layer = nn.remat(Layer, prevent_cse=False) if self.remat else Layer
    layers = nn.scan(
      layer,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=self.length,
    )
    x, _ = layers(self.config, name="layers")(x, memory)
    return norm("norm")(x)
