"""LMUFormer: a classifier of sound that trains on all frames at once and runs frame by frame.

The idea: where a Transformer has attention, a Legendre memory: a fixed linear recurrence of one
number a frame, whose state is the last `theta` frames as polynomial coefficients. All its states
are one convolution. Around it a convolutional embedding, which sees five frames ahead, so that a
stream answers 50 ms late, and a mixer of channels. The spiking network sends zeros and ones between
its layers, from neurons whose time is the frames'.
Source: Liu et al., https://arxiv.org/abs/2402.04882; github.com/zeyuliu1037/LMUFormer, models
`lmu_rnn_conv1d` and `slmu_rnn_ms_conv1d`. Its spiking network that runs step by step leaves out a
norm and neurons; this one is the same in both forms.

Shapes: B rows, N frames, D features, q order of the memory, K classes.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.layers.chain import Chain
from jaxcodec.layers.conv import Conv1d
from jaxcodec.layers.norms import BatchNorm

LOOKAHEAD = 5  # Frames that the embedding's convolutions see ahead.
# Of log-mel spectra of Speech Commands; the program divides by twice the deviation.
_MEAN, _DEVIATION = -6.845978, 5.5654526


def normalised(mel):
  """Kaldi's log-mel spectra [..., bands] as the network takes them."""
  return (mel - _MEAN) / (2 * _DEVIATION)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LmuConfig:
  """The network.

  Attributes:
    classes: K.
    bands: of the log-mel spectrum.
    width: D.
    memory: q.
    theta: frames that the memory holds.
    num_layers: blocks of a memory and a mixer.
    hidden: of the mixers.
    spiking: whether zeros and ones go between layers; published with a memory of 512.
  """

  classes: int
  bands: int = 128
  width: int = 256
  memory: int = 256
  theta: int = 128
  num_layers: int = 1
  hidden: int = 1024
  spiking: bool = False


class LmuFormer(nn.Module):
  """The network: normalised log-mel frames to logits after each frame.

  Attributes:
    config: of the network.
  """

  config: LmuConfig

  @nn.compact
  def __call__(
    self, mel, state=None, final: bool = True, length=None, found: dict[str, Any] | None = None
  ):
    """`([B, N, K], state)`: what all frames up to each one say, the last frame for the whole.

    Args:
      mel: [B, N, bands], a whole signal or the next chunk of one.
      state, final, length: see `layers.chain`; a chunk that is not the last gives fewer logits at
        the start, as frames wait for those ahead.
      found: in training gets statistics, see `BatchNorm`.
    """
    config, run = self.config, Chain(state, final, length)
    network = _Spiking if config.spiking else _Plain
    parts = network(config, run, found)
    x = parts.embedding(mel)
    for i in range(config.num_layers):
      x = x + parts.memory(x, f"block_{i}")
      x = x + parts.mixer(x, f"block_{i}")
    x = parts.before_head(x)
    total, count = (jnp.zeros((len(x), 1, config.width)), 0.0) if state is None else state["seen"]
    steps = count + jnp.arange(1.0, x.shape[1] + 1)
    means = (total + jnp.cumsum(x, axis=1)) / steps[:, None]
    start = nn.initializers.truncated_normal(0.02)
    y = nn.Dense(config.classes, kernel_init=start, name="head")(means)
    return y, run.after | {"seen": (total + x.sum(axis=1, keepdims=True), count + x.shape[1])}

  def whole(self, mel, length=None):
    """Logits of whole signals: [B, N, bands] -> [B, K], each row of its own `length` [B] >= 1."""
    logits = self(mel, length=length)[0]
    if length is None:
      return logits[:, -1]
    return jnp.take_along_axis(logits, length[:, None, None] - 1, axis=1)[:, 0]


class Memory(nn.Module):
  """Legendre memory of a number a frame: `([B, N, 1], state) -> ([B, N, order], state)`.

  Attributes:
    order, theta: see `functional.legendre`.
  """

  order: int
  theta: int

  @nn.compact
  def __call__(self, u, state=None, final: bool = True, length=None):
    del length  # No frame sees a later one.
    if state is None and final:
      states = F.legendre_memory(u[..., 0], self.order, self.theta)
      return states, states[:, -1]
    state = jnp.zeros((len(u), self.order)) if state is None else state
    return F.legendre_steps(u[..., 0], state, self.theta)


class Neurons(nn.Module):
  """`functional.leaky_integrate_and_fire` as a layer.

  Attributes:
    threshold: of a spike.
  """

  threshold: float = 1.0

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    del final, length  # No frame sees a later one.
    return F.leaky_integrate_and_fire(x, state, threshold=self.threshold)


@dataclasses.dataclass
class _Parts:
  """What the two networks share; the layers belong to the module that is being called."""

  config: LmuConfig
  run: Chain
  found: dict[str, Any] | None

  def norm(self, x, name: str):
    return BatchNorm(name=name)(x, self.found)

  def conv(self, x, name: str):
    layer = Conv1d(self.config.width, 3, causal=False, use_bias=False, name=name)
    return self.run(layer, x)

  def states(self, u, name: str):
    return self.run(Memory(self.config.memory, self.config.theta, name=name), u)


class _Plain(_Parts):
  def embedding(self, x):
    for i in range(4):
      x = self.norm(nn.relu(self.conv(x, f"conv_{i}")), f"norm_{i}")
    return self.run.add(x, self.conv(x, "conv_4"))

  def memory(self, x, name: str):
    u = nn.relu(nn.Dense(1, name=f"{name}_input")(x))
    joined = jnp.concatenate([self.states(u, f"{name}_memory"), x], axis=-1)
    h = nn.relu(nn.Dense(self.config.width, name=f"{name}_hidden")(joined))
    return self.norm(nn.Dense(self.config.width, name=f"{name}_out")(h), f"{name}_out_norm")

  def mixer(self, x, name: str):
    y = self.norm(nn.Dense(self.config.hidden, name=f"{name}_up")(x), f"{name}_up_norm")
    y = nn.Dense(self.config.width, name=f"{name}_down")(nn.gelu(y, approximate=False))
    return nn.relu(self.norm(y, f"{name}_down_norm"))

  def before_head(self, x):
    return x


class _Spiking(_Parts):
  def fired(self, x, name: str, threshold: float = 1.0):
    return self.run(Neurons(threshold, name=f"{name}_neurons"), self.norm(x, f"{name}_norm"))

  def embedding(self, x):
    x = self.conv(x, "conv_0")
    for i in range(1, 4):
      x = self.conv(self.fired(x, f"conv_{i}"), f"conv_{i}")
    return self.run.add(x, self.conv(self.fired(x, "conv_4"), "conv_4"))

  def memory(self, x, name: str):
    x = self.fired(x, f"{name}_input", 0.5)
    u = self.fired(nn.Dense(1, name=f"{name}_input")(x), f"{name}_memory_input")
    m = self.fired(self.states(u, f"{name}_memory"), f"{name}_state")
    joined = jnp.concatenate([m, x], axis=-1)
    h = self.fired(nn.Dense(self.config.width, name=f"{name}_hidden")(joined), f"{name}_hidden")
    return self.norm(nn.Dense(self.config.width, name=f"{name}_out")(h), f"{name}_out_norm")

  def mixer(self, x, name: str):
    y = nn.Dense(self.config.hidden, name=f"{name}_up")(self.fired(x, f"{name}_up"))
    return nn.Dense(self.config.width, name=f"{name}_down")(self.fired(y, f"{name}_down"))

  def before_head(self, x):
    return self.fired(x, "head")


def init_params(config: LmuConfig, key):
  """Parameters as a run begins with."""
  return LmuFormer(config).init(key, jnp.zeros((1, 1, config.bands)))["params"]


def shapes_of(config: LmuConfig):
  """Shapes of the parameters."""
  example = jax.ShapeDtypeStruct((1, 1, config.bands), jnp.float32)
  return jax.eval_shape(LmuFormer(config).init, jax.random.key(0), example)["params"]
