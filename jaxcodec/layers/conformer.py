"""Layers of a causal FastConformer, which take a signal whole or in chunks.

Every layer is called with what it remembers and returns it: the start remembers zeros, and the
whole signal is one chunk. Sources: NVIDIA's NeMo, collections/asr/parts/submodules/subsampling.py,
causal_convs.py, conformer_modules.py, multi_head_attention.py; FastConformer,
https://arxiv.org/abs/2305.05084.

Shapes: B rows, T frames of a chunk, S frames that it sees, D features, H heads of E.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F

REDUCTION = 8  # Mel frames of one after subsampling.
LEAD = REDUCTION - 1  # Places before the first mel frame, so that chunks are multiples of eight.


def num_frames(mel_frames):
  """Frames that whole signals of mel frames become: the last ones see zeros after the end."""
  for _ in range(3):
    mel_frames = mel_frames // 2 + 1
  return mel_frames


class Subsampling(nn.Module):
  """Mel frames [B, 8 T, F] to `([B, T, D], state)` by three convolutions of stride 2.

  Output i of each sees its inputs 2 i - 2 to 2 i. What is before the first mel frame or after the
  last one is zero in every layer, not only in the first.

  Attributes:
    channels: of the convolutions.
    features: D.
  """

  channels: int
  features: int

  @nn.compact
  def __call__(self, mel, frames, length, state):
    """One chunk.

    Args:
      mel: the chunk; that of the start has `LEAD` places before its first frame.
      frames: int [B], what the chunks before became; 0 at the start.
      length: int [B], mel frames that exist from the first chunk to this one's end.
      state: of `init_state` or of the chunk before.
    """
    x, tails = mel[..., None], []
    for i, tail in enumerate(state):
      # The first place of the chunk, among this layer's inputs of the whole signal.
      scale = REDUCTION >> i
      place = scale * frames - (scale - 1)
      places = place[:, None] + jnp.arange(x.shape[1])
      there = (places >= 0) & (places < length[:, None])
      x = jnp.concatenate([tail, jnp.where(there[..., None, None], x, 0)], axis=1)
      tails.append(x[:, -1:])
      # Both axes alike: two zeros before, one after. The chunk's end needs no zero: see `there`.
      x = jnp.pad(x, ((0, 0), (0, 0), (2, 1), (0, 0)))
      x = self._conv(x, i)
      length = length // 2 + 1
    x = jnp.moveaxis(x, 3, 2).reshape(*x.shape[:2], -1)  # Channel by channel.
    return nn.Dense(self.features, name="out")(x) * self.features**0.5, tuple(tails)

  def _conv(self, x, i: int):
    if i == 0:
      return nn.relu(nn.Conv(self.channels, (3, 3), (2, 2), "VALID", name="conv_0")(x))
    init = nn.initializers.lecun_normal(in_axis=(0, 1), out_axis=())
    kernel = self.param(f"depthwise_{i}", init, (3, 3, self.channels))
    bias = self.param(f"depthwise_bias_{i}", nn.initializers.zeros, (self.channels,))
    steps, bands = (x.shape[1] - 1) // 2, (x.shape[2] - 1) // 2
    # XLA's depthwise convolutions are slow on CPU.
    parts = [
      x[:, a : a + 2 * steps - 1 : 2, b : b + 2 * bands - 1 : 2] * kernel[a, b]
      for a in range(3)
      for b in range(3)
    ]
    return nn.relu(nn.Dense(self.channels, name=f"pointwise_{i}")(sum(parts[1:], parts[0]) + bias))

  def init_state(self, batch: int, bands: int):
    """Zeros: the last input of each convolution."""
    shapes = []
    channels = 1
    for _ in range(3):
      shapes.append((batch, 1, bands, channels))
      bands, channels = bands // 2 + 1, self.channels
    return tuple(map(jnp.zeros, shapes))


def dropout(module: nn.Module, x, rate: float):
  """x with a share of its numbers zero and the others grown, if the call was given such a key.

  That is `apply(..., rngs={"dropout": key})`; without it x stays as it is.
  """
  return nn.Dropout(rate, deterministic=not module.has_rng("dropout"))(x)


def relative_positions(keys: int, queries: int, features: int):
  """Sinusoids of the distances keys - 1 to -(queries - 1): [keys + queries - 1, features]."""
  distance = jnp.arange(keys - 1, -queries, -1, dtype=jnp.float32)[:, None]
  angles = distance * 10_000.0 ** (-jnp.arange(0, features, 2) / features)
  return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(-1, features)


def relative_shift(scores, keys: int):
  """Scores [..., T, keys + T - 1] by distance to scores [..., T, keys] by key."""
  *rest, queries, distances = scores.shape
  x = jnp.pad(scores, [(0, 0)] * len(rest) + [(0, 0), (1, 0)])
  x = x.reshape(*rest, distances + 1, queries)[..., 1:, :]
  return x.reshape(*rest, queries, distances)[..., :keys]


class RelativeAttention(nn.Module):
  """Attention with Transformer-XL's positions: `(x [B, T, D], past) -> ([B, T, D], past)`.

  Score of query i and key j: ((q_i + u) . k_j + (q_i + v) . p_(i - j)) / sqrt(E).

  Attributes:
    num_heads: H.
    rate: of `dropout`, of the weights.
  """

  num_heads: int
  rate: float = 0.0

  @nn.compact
  def __call__(self, x, past, visible):
    """Args: past, keys and values [B, S - T, H, E] before the chunk; visible, bool [B, T, S]."""
    _, steps, width = x.shape
    heads, size = self.num_heads, width // self.num_heads

    def projected(y, name: str, use_bias: bool = True):
      y = nn.Dense(width, use_bias=use_bias, name=name)(y)
      return y.reshape(*y.shape[:-1], heads, size)

    q, k, v = (projected(x, name) for name in ("query", "key", "value"))
    k, v = (jnp.concatenate(pair, axis=1) for pair in zip(past, (k, v), strict=True))
    positions = relative_positions(k.shape[1], steps, width).astype(x.dtype)
    p = projected(positions, "position", use_bias=False)
    u, w = (self.param(n, nn.initializers.zeros, (heads, size)) for n in ("bias_u", "bias_v"))
    by_distance = jnp.einsum("bthe,phe->bhtp", q + w, p)
    scores = jnp.einsum("bthe,bshe->bhts", q + u, k) + relative_shift(by_distance, k.shape[1])
    scores = jnp.where(visible[:, None], scores * size**-0.5, -1e9).astype(jnp.float32)
    # Whoever sees nothing, as what is past a row's end does, gets nothing.
    weights = jnp.where(visible[:, None], jax.nn.softmax(scores, axis=-1), 0).astype(v.dtype)
    weights = dropout(self, weights, self.rate)
    y = jnp.einsum("bhts,bshe->bthe", weights, v).reshape(x.shape)
    return nn.Dense(width, name="out")(y), (k[:, steps:], v[:, steps:])


class ConformerLayer(nn.Module):
  """`(x [B, T, D], past, visible, there) -> (x, past)`, as a scan over layers calls it.

  Attributes:
    num_heads: of attention.
    hidden: of the feed-forward parts.
    kernel: frames that the depthwise convolution sees, its own the last.
    rate: of `dropout`, of each part's result, of hidden features and of attention's weights.
  """

  num_heads: int
  hidden: int
  kernel: int
  rate: float = 0.0

  @nn.compact
  def __call__(self, x, past, visible, there):
    """`past`: keys, values, and inputs [B, kernel - 1, D] of the depthwise convolution."""
    keys, values, before = past
    width = x.shape[-1]

    def norm(name: str):
      return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)

    def feed_forward(x, name: str):
      y = nn.silu(nn.Dense(self.hidden, name=f"{name}_up")(norm(f"{name}_norm")(x)))
      y = nn.Dense(width, name=f"{name}_down")(dropout(self, y, self.rate))
      return x + 0.5 * dropout(self, y, self.rate)

    x = feed_forward(x, "first")
    attention = RelativeAttention(self.num_heads, self.rate, name="attention")
    y, (keys, values) = attention(norm("attention_norm")(x), (keys, values), visible)
    x = x + dropout(self, y, self.rate)
    y = nn.glu(nn.Dense(2 * width, name="conv_in")(norm("conv_norm")(x)))
    y = jnp.where(there[..., None], y, 0)
    init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=())
    kernel = self.param("depthwise", init, (self.kernel, width))
    bias = self.param("depthwise_bias", nn.initializers.zeros, (width,))
    y, before = F.causal_depthwise_conv(y, kernel, bias, before)
    # Over features alone: statistics over time would be of what is to come.
    y = nn.Dense(width, name="conv_out")(nn.silu(norm("depthwise_norm")(y)))
    x = x + dropout(self, y, self.rate)
    return norm("norm")(feed_forward(x, "second")), (keys, values, before)
