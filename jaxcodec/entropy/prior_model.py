"""A small causal Transformer over time and codebooks that gives each code its frequencies.

Shapes: B rows, T frames, D features, H heads, W frames of the window, Q codebooks, K entries, C
features of a latent, U features that meet the entries.

A frame's codes stand for a latent, the sum of their entries. Over time, a Transformer sees the
latents of the frames before. Over codebooks, a network of two layers sees what it says and the sum
of the frame's entries so far, and its output meets a table of the codebook's K entries: logits in
units of 1/32 bit. All of it is arithmetic on whole numbers (`functional.whole`): weights and
activations of 8 bits, so frequencies are the same integers everywhere.

Real numbers stand in units of: 1/32 activations, 1/64 the residual stream, 1/128 weights, 1/4096
biases, 1/32 latents as summed, 1/8 as seen.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.functional import whole

UNIT = 32
LOGIT_STEPS = 32  # A logit of 32 is one bit.
PRECISION = 16
TOTAL = 1 << PRECISION  # Of the frequencies of a codebook's entries.
_WEIGHT_UNIT = 128
_ATTENTION_STEPS = 16
_STREAM_LIMIT = 2047
_BIAS_LIMIT = 1 << 19


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorConfig:
  """Sizes of the network.

  Attributes:
    latent: features C of a latent.
    features: D of the Transformer, at most 256.
    layers: of it.
    heads: D / heads features each.
    hidden: of its feed-forward part.
    window: frames W that attention sees, the present one included, at most 128.
    depth_hidden: of the network over codebooks.
    output: features U that meet the entries.
  """

  num_codebooks: int
  codebook_size: int
  latent: int
  features: int = 128
  layers: int = 3
  heads: int = 4
  hidden: int = 384
  window: int = 128
  depth_hidden: int = 256
  output: int = 96

  def __post_init__(self):
    sums = (3 * self.latent, self.hidden, self.depth_hidden + self.features + self.latent)
    if any(value < 1 for value in dataclasses.astuple(self)):
      raise ValueError("sizes of a prior are 1 or more")
    # What keeps each sum of products of 8 bits, and its bias, below 2^24.
    if max(*sums, self.output) > 1000 or self.features > 256 or self.window > 128:
      raise ValueError("a prior of these sizes does not add up exactly in float32")
    if not 2 <= self.codebook_size <= 1 << 15 or self.features % self.heads:
      raise ValueError(
        "a prior has 2 to 32768 entries a codebook, and features a multiple of heads"
      )


def init(key, config: PriorConfig, codebooks, counts) -> Any:
  """Real parameters; the entries' tables start from the codebooks, their biases from counts."""
  c = config
  keys = iter(jax.random.split(key, 64))

  def kernel(*shape, scale=1.0):
    return jax.random.normal(next(keys), shape) * scale / np.sqrt(shape[-2])

  layers = [
    {
      "qkv": kernel(c.features, 3 * c.features),
      "near": -jnp.outer(2.0 ** -jnp.arange(1, c.heads + 1), jnp.arange(c.window)),
      "out": kernel(c.features, c.features, scale=0.5),
      "up": kernel(c.features, c.hidden),
      "up_bias": jnp.zeros(c.hidden),
      "down": kernel(c.hidden, c.features, scale=0.5),
    }
    for _ in range(c.layers)
  ]
  shares = np.asarray(counts, np.float64) + 1
  bias = np.log2(shares / shares.sum(axis=1, keepdims=True) * c.codebook_size)
  books = codebooks / codebooks.std(axis=(1, 2), keepdims=True)
  rest = kernel(c.num_codebooks, c.codebook_size, c.output - c.latent, scale=2.0)
  return {
    "first": kernel(3 * c.latent, c.features),
    "start": jax.random.normal(next(keys), (c.features,)),
    "active": jnp.zeros((c.num_codebooks, c.features)),
    "layers": layers,
    "depth": {
      "up": kernel(c.features + c.latent, c.depth_hidden),
      "up_bias": jnp.zeros((c.num_codebooks, c.depth_hidden)),
      "down": kernel(c.num_codebooks, c.depth_hidden, c.output, scale=0.5),
      "skip": kernel(c.num_codebooks, c.features + c.latent, c.output, scale=0.5),
      "bias": jnp.zeros((c.num_codebooks, c.output)),
      "entries": jnp.concatenate([0.1 * books, rest], axis=-1),
      "entries_bias": jnp.asarray(bias, jnp.float32),
    },
  }


def shapes(config: PriorConfig) -> Any:
  """The parameters' shapes."""
  books = jnp.zeros((config.num_codebooks, config.codebook_size, config.latent))
  counts = np.ones(books.shape[:2])
  return jax.eval_shape(lambda key: init(key, config, books, counts), jax.random.key(0))


def quantize(params: Any) -> Any:
  """Real parameters as whole numbers (float32), with the gradient of the real ones."""

  def leaf(path, x):
    unit, limit = _unit_and_limit(path)
    return whole.clip(whole.whole(x * unit), limit)

  return jax.tree_util.tree_map_with_path(leaf, params)


def dtypes(config: PriorConfig) -> Any:
  """How the whole numbers are stored: weights as int8, all else as int32."""

  def leaf(path, _):
    return np.dtype(np.int8 if _unit_and_limit(path)[1] == whole.INT8 else np.int32)

  return jax.tree_util.tree_map_with_path(leaf, shapes(config))


def as_float(params: Any) -> Any:
  """Stored parameters as the functions below take them."""
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def in_range(params: Any) -> bool:
  """Whether stored parameters are what `quantize` could have made: then all sums are exact."""

  def leaf(path, x):
    return np.abs(x.astype(np.int64)).max() <= _unit_and_limit(path)[1]

  return all(jax.tree.leaves(jax.tree_util.tree_map_with_path(leaf, params)))


def _unit_and_limit(path) -> tuple[int, int]:
  """What 1.0 of a parameter is, and the most that it may be."""
  name = path[-1].key
  if name == "near":
    return _ATTENTION_STEPS, 1 << 12
  if "bias" in name or name in ("start", "active"):
    return _WEIGHT_UNIT * UNIT, _BIAS_LIMIT
  return _WEIGHT_UNIT, whole.INT8


def code_vectors(codebooks) -> jax.Array:
  """What the codes stand for, whole numbers [Q, K, C]: entries in units of 1/32."""
  return jnp.round(jnp.clip(codebooks * 32.0, -2047, 2047))


def seen(latent):
  """A sum of code vectors in 8 bits."""
  return whole.clip(whole.shift(latent, 2), whole.INT8)


def frame_inputs(first, second, total):
  """What the Transformer sees of frames [..., 3 C]: sums of one, two, all code vectors [..., C]."""
  return jnp.concatenate([seen(first), seen(second), seen(total)], axis=-1)


def linear(x, kernel, bits, bias=0.0, noise=None):
  return whole.shift(whole.matmul(x, kernel, noise) + bias, bits)


def context(params, inputs, num_active, config: PriorConfig, noise=None):
  """What each frame may know of those before it: activations [B, T, D].

  Args:
    params: whole numbers.
    inputs: `frame_inputs` of the frames [B, T, 3 C]; the last one is not used.
    num_active: codebooks in use, an integer.
  """
  c = config
  begin = jnp.broadcast_to(whole.shift(params["start"], 6), (len(inputs), 1, c.features))
  x = linear(inputs[:, :-1], params["first"], 6, noise=noise)
  x = with_active(params, jnp.concatenate([begin, x], axis=1), num_active)
  frames = jnp.arange(x.shape[1])
  distance = frames[:, None] - frames
  visible = (distance >= 0) & (distance < c.window)
  for layer in params["layers"]:
    q, k, v = heads(layer, x, c, noise)
    near = layer["near"][:, jnp.clip(distance, 0, c.window - 1)]
    x = transform(layer, x, attend(q, k, v, near, visible, noise), noise)
  return whole.rms_norm(x, UNIT)


def init_memory(config: PriorConfig, rows: int):
  """Keys and values of the window, [layers, 2, B, H, W, E], before the first frame."""
  c = config
  return jnp.zeros((c.layers, 2, rows, c.heads, c.window, c.features // c.heads))


def next_context(params, memory, inputs, frame, num_active, config: PriorConfig):
  """`(memory, activations [B, D])`: `context` one frame at a time.

  Args:
    inputs: `frame_inputs` [B, 3 C] of the frame before; of the first, anything.
    frame: its index, an integer.
  """
  c = config
  begin = jnp.broadcast_to(whole.shift(params["start"], 6), (len(inputs), c.features))
  x = jnp.where(frame == 0, begin, linear(inputs, params["first"], 6))
  x = with_active(params, x, num_active)[:, None]
  distance = (frame - jnp.arange(c.window)) % c.window  # Frame t lies in place t % W.
  visible = distance <= frame
  for i, layer in enumerate(params["layers"]):
    q, k, v = heads(layer, x, c)
    place = (i, 0, 0, 0, frame % c.window, 0)
    memory = jax.lax.dynamic_update_slice(memory, jnp.stack([k, v])[None], place)
    near = layer["near"][:, None, distance]
    x = transform(layer, x, attend(q, memory[i, 0], memory[i, 1], near, visible))
  return memory, whole.rms_norm(x, UNIT)[:, 0]


def with_active(params, x, num_active):
  """The stream x with what the network should know of the number of codebooks in use."""
  return whole.clip(x + whole.shift(params["active"][num_active - 1], 6), _STREAM_LIMIT)


def heads(layer, x, config: PriorConfig, noise=None):
  """Queries, keys and values [3, B, H, T, E] in 8 bits."""
  qkv = linear(whole.rms_norm(x, UNIT), layer["qkv"], 7, noise=noise)
  qkv = whole.clip(qkv, whole.INT8).reshape(*x.shape[:2], 3, config.heads, -1)
  return jnp.moveaxis(qkv, (2, 3), (0, 2))


def transform(layer, x, attended, noise=None):
  """The stream x [B, T, D] after the rest of a layer: what attention found, and feed-forward."""
  attended = jnp.swapaxes(attended, 1, 2).reshape(x.shape)
  x = residual(x, linear(attended, layer["out"], 6, noise=noise))
  return residual(x, feed_forward(layer, x, noise))


def residual(x, y):
  return whole.clip(x + y, _STREAM_LIMIT)


def feed_forward(layer, x, noise):
  h = linear(whole.rms_norm(x, UNIT), layer["up"], 7, layer["up_bias"], noise)
  return linear(jnp.clip(h, 0, whole.INT8), layer["down"], 6, noise=noise)


def attend(q, k, v, near, visible, noise=None):
  """Means of v [B, H, S, E] in 8 bits [B, H, T, E], weighted by powers of two of scores.

  A score counts 1/16 bit: a product of q [B, H, T, E] and k [B, H, S, E], scaled by 1 / sqrt(E),
  and `near` [H, T, S].
  """
  # log2(32 * 32 * sqrt(E) / 16), halves down.
  halvings = 6 + (v.shape[-1].bit_length() - 1) // 2
  scores = whole.matmul(q, jnp.swapaxes(k, -1, -2), noise)
  scores = jnp.where(visible, whole.shift(scores, halvings) + near, -(2.0**20))
  below = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)) - scores
  steps = jnp.minimum(below, 16 * _ATTENTION_STEPS)
  value = whole.power_of_half(steps.astype(jnp.int32), _ATTENTION_STEPS) >> 7
  weights = whole.straight_through(
    value.astype(jnp.float32), 256 * jnp.exp2(-steps / _ATTENTION_STEPS)
  )
  mean = whole.quotient(whole.matmul(weights, v, noise), weights.sum(axis=-1, keepdims=True))
  return whole.clip(mean, whole.INT8)


def logits(depth, h, latent, noise=None):
  """Logits [..., K] of a codebook, whole numbers in units of 1/32 bit.

  Args:
    depth: the codebook's parameters, as `of_codebook` gives them.
    h: `context` of the frames, [..., D].
    latent: sum of the code vectors of the frames' codebooks before this one, [..., C].
  """
  x = jnp.concatenate([h, seen(latent)], axis=-1)
  hidden = linear(x, depth["up"], 7, depth["up_bias"], noise)
  hidden = jnp.clip(hidden, 0, whole.INT8)
  y = whole.matmul(hidden, depth["down"], noise) + whole.matmul(x, depth["skip"], noise)
  u = whole.clip(whole.shift(y + depth["bias"], 7), whole.INT8)
  return linear(u, depth["entries"].T, 7, depth["entries_bias"], noise)


def of_codebook(depth, book):
  """The parameters that codebook `book` has of its own, beside those that all share."""
  return {name: leaf if name == "up" else leaf[book] for name, leaf in depth.items()}


def frequencies(logits):
  """Frequencies uint32 [..., K] of logits: at least 1 each, together 2^16.

  Weights w in 0..2^15 become floor(w S / sum(w)), or 1 if that is 0, with S = 2^16 less the entries
  below a share of 2^-16. What is left over goes to the first entries, one each. With K up to 2048
  it is at least -K^2 / 2^18, as those that S makes fall below 1 are worth almost 1 each; the
  likeliest entry, which has more than 2^16 / K - 2, gives that.
  """
  below = logits.max(axis=-1, keepdims=True) - logits
  weights = whole.power_of_half(jnp.minimum(below, 16 * LOGIT_STEPS).astype(jnp.int32), LOGIT_STEPS)
  weights = weights.astype(jnp.uint32)  # At most 2^15 each, so the products stay below 2^32.
  total = weights.sum(axis=-1, keepdims=True)
  scarce = (weights << PRECISION < total).sum(axis=-1, keepdims=True, dtype=jnp.uint32)
  share = jnp.maximum(weights * (TOTAL - scarce) // total, 1).astype(jnp.int32)
  rest = TOTAL - share.sum(axis=-1, keepdims=True)
  entry = jnp.arange(logits.shape[-1])
  likeliest = entry == jnp.argmax(logits, axis=-1, keepdims=True)
  share += (entry < rest) + likeliest * jnp.minimum(rest, 0)
  return share.astype(jnp.uint32)
