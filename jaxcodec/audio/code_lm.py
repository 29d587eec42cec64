"""A language model over codes: a decoder-only Transformer that continues a prompt of frames.

The codes of a frame are written in the order of a pattern (`functional.patterns`). A step's codes
are embedded each by its codebook's table and added to a sinusoid of the step; entry K stands for a
code that is not there. Pre-norm layers with LayerNorm, no biases but theirs.
Features of a text, which a model of another kind makes, may be attended to in every layer.
Source: MusicGen, https://arxiv.org/abs/2306.05284. Guidance is that of its text, or of a prompt:
https://arxiv.org/abs/2306.17806, equation 7.

Shapes: B rows, T frames, Q codebooks of K entries, S steps, D features, H heads of E, M places of a
text with W features. -1 stands for a code that is not there.
"""

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec import functional as F
from jaxcodec.layers.attend import Attend
from pallas_kernels.attention import Causal

PATTERNS = {"flat": F.flat_pattern, "parallel": F.parallel_pattern, "delay": F.delay_pattern}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeLmConfig:
  """The stack.

  Attributes:
    width: features D of the stream; an even number.
    num_heads: D / num_heads features each.
    hidden: of the feed-forward parts.
    num_layers: of the stack.
    text_width: features W of a text; None if the stack attends to none. Other than D, they are
      mapped to D first.
  """

  width: int
  num_heads: int
  hidden: int
  num_layers: int
  text_width: int | None = None


def _dense(features: int, name: str) -> nn.Dense:
  return nn.Dense(features, use_bias=False, name=name)


def _norm(name: str) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)


class LmLayer(nn.Module):
  """`(x [B, T, D], cache, start) -> (x, cache)`, as a scan over layers calls it.

  Without a cache, steps see themselves and those before them. With keys and values [B, S, H, E] of
  all steps, x are the steps from `start` on: theirs are written there, and they see what is up to
  their own place.

  With `there`, bool [B, M], steps also see those places of `text` [B, M, D], zero elsewhere. The
  call that gives the text adds its keys and values to the cache, and later ones do not give it.

  Attributes:
    config: of the stack.
  """

  config: CodeLmConfig

  @nn.compact
  def __call__(self, x, cache=None, start=0, text=None, there=None):
    config = self.config

    def heads(y, name: str):
      return _dense(config.width, name)(y).reshape(*y.shape[:2], config.num_heads, -1)

    y = _norm("attention_norm")(x)
    q, k, v = (heads(y, name) for name in ("query", "key", "value"))
    if cache is None:
      y = Attend(Causal())(q, k, v)
    else:
      write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=1)
      keys, values = map(write, cache[:2], (k, v))
      cache = (keys, values, *cache[2:])
      seen = jnp.arange(keys.shape[1]) <= start + jnp.arange(x.shape[1])[:, None]
      y = _attended(q, keys, values, seen)
    x = x + _dense(config.width, "out")(y.reshape(x.shape))
    if there is not None:
      if text is None:
        keys, values = cache[2:]
      else:
        keys, values = heads(text, "text_key"), heads(text, "text_value")
        cache = None if cache is None else (*cache, keys, values)
      q = heads(_norm("text_norm")(x), "text_query")
      y = _attended(q, keys, values, there[:, None, None])
      x = x + _dense(config.width, "text_out")(y.reshape(x.shape))
    y = nn.gelu(_dense(config.hidden, "up")(_norm("feed_forward_norm")(x)), approximate=False)
    return x + _dense(config.width, "down")(y), cache


def _attended(q, k, v, seen):
  """Means of v [B, S, H, E] for queries [B, T, H, E], over what is seen of [B, H, T, S].

  One that sees nothing gets the mean of all.
  """
  scores = jnp.einsum("bthe,bshe->bhts", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
  weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(jnp.float32).min), axis=-1)
  return jnp.einsum("bhts,bshe->bthe", weights.astype(v.dtype), v)


def _sinusoids(steps, width: int):
  """Cosines, then sines, of steps [T]: float32 [T, width]."""
  half = width // 2
  rates = jnp.exp(-np.log(10_000) / max(half - 1, 1) * jnp.arange(half))
  angles = steps[:, None].astype(jnp.float32) * rates
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class CodeLm(nn.Module):
  """Logits of each step's codes, given the steps before it.

  Attributes:
    net: the stack.
    num_codebooks, codebook_size: Q and K.
    pattern: the order of a frame's codes.
    remat: whether each layer is computed again on the way back.
  """

  net: CodeLmConfig
  num_codebooks: int
  codebook_size: int
  pattern: Literal["flat", "parallel", "delay"] = "delay"
  remat: bool = False

  @nn.compact
  def __call__(self, before, cache=None, start=0, text=None, there=None):
    """`(logits, cache)`.

    Args:
      before: int32 [B, T, Q], the codes of the step before each: -1 before the first one.
      cache: what `init_cache` made or a call returned; None to see the T steps alone.
      start: the first one's place in the sequence, an integer; 0 without a cache.
      text: [B, M, W], to a new cache or without one; the cache keeps it.
      there: bool [B, M], which places of the text exist, at every call; None for no text, and a
        row without any is as one without a text.

    Returns:
      float32 [B, T, Q, K] and the cache with these steps.
    """
    net, size, books = self.net, self.codebook_size, np.arange(self.num_codebooks)
    shape = (self.num_codebooks, size + 1, net.width)
    tables = self.param("tables", nn.initializers.normal(self.num_codebooks**-0.5), shape)
    x = tables[books, jnp.where(before < 0, size, before)].sum(axis=2)
    x = x + _sinusoids(start + jnp.arange(before.shape[1]), net.width).astype(x.dtype)
    if net.text_width is not None and self.is_initializing():
      text = jnp.zeros((len(before), 1, net.text_width), x.dtype)
      there = jnp.ones(text.shape[:2], bool)
    if text is not None:
      text = text if net.text_width == net.width else nn.Dense(net.width, name="text")(text)
      # What is absent has values of zero, as there are no biases.
      text = jnp.where(there[..., None], text, 0).astype(x.dtype)
    layer = nn.remat(LmLayer, prevent_cse=False) if self.remat else LmLayer
    layers = nn.scan(
      layer,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast if cache is None else 0, *[nn.broadcast] * 3),
      length=net.num_layers,
    )
    x, cache = layers(net, name="layers")(x, cache, start, text, there)
    y = _dense(self.num_codebooks * size, "head")(_norm("norm")(x))
    return y.reshape(*before.shape, size).astype(jnp.float32), cache

  def init_cache(self, batch: int, steps: int, dtype: Any = jnp.float32):
    """Keys and values of no step yet, two arrays [layers, B, S, H, E]."""
    net = self.net
    shape = (net.num_layers, batch, steps, net.num_heads, net.width // net.num_heads)
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

  def order(self, frames: int) -> np.ndarray:
    """The pattern of sequences of `frames` frames."""
    return PATTERNS[self.pattern](frames, self.num_codebooks)

  def foretell(self, codes, read: int = 0, text=None, there=None):
    """`(logits [B, S, Q, K], target [B, S, Q])` of codes [B, T, Q], all of them."""
    del read  # What comes first is foretold as well.
    target = F.arranged(codes, self.order(codes.shape[1]))
    return self(_shifted(target), text=text, there=there)[0], target


def _shifted(sequence):
  """Of each step of [B, S, Q] the one before it."""
  return jnp.pad(sequence[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=-1)


@functools.partial(jax.jit, static_argnames=("model", "frames", "top_k"))
def sample(
  model: CodeLm,
  params,
  prompt,
  key,
  *,
  frames: int,
  temperature: float = 1.0,
  top_k: int | None = None,
  guidance: float | None = None,
  text=None,
  there=None,
):
  """Frames that continue a prompt, drawn one step after the other.

  The prompt goes through the network at once, then each step sees its keys and values.

  Args:
    params: of the model.
    prompt: int32 [B, P, Q]; P may be 0.
    key: of what is drawn.
    frames: to be written; static.
    temperature: of the draws; 0 takes the likeliest code.
    top_k: codes of each codebook that may be drawn, the likeliest ones; None for all. Static.
    guidance: how far to go from what follows no text to what follows this one, or else from what
      follows no prompt: g above 1 draws from the logits u + g (c - u), where u are those without
      the text, or for absent codes in the prompt's place. None for c alone, at half the work.
    text: [B, M, W], what a sound is to be like.
    there: bool [B, M], which places of the text exist; with `text` alone.

  Returns:
    int32 [B, P + frames, Q], the prompt first.

  Raises:
    ValueError: if the prompt has not the model's codebooks, nothing is to be written, `top_k` is
      not within 1 and K, or the text is not one that the model attends to.
  """
  batch, read, books = prompt.shape
  if top_k is not None and not 1 <= top_k <= model.codebook_size:
    raise ValueError(f"top_k={top_k} is not within 1 and {model.codebook_size}")
  if books != model.num_codebooks or frames < 1:
    raise ValueError(
      f"{frames} frames after a prompt of {books} codebooks, by a model of {model.num_codebooks}"
    )
  if (text is None) != (there is None):
    raise ValueError("a text and which of its places are there come together")
  if text is not None and (
    text.shape != (*there.shape, model.net.text_width) or len(text) != batch
  ):
    raise ValueError(
      f"a text {text.shape}, there {there.shape}, for {batch} rows of a model that attends to "
      f"{model.net.text_width} features"
    )
  pattern = model.order(read + frames)
  wanted = pattern >= read
  # As far as a step has none to be written, all are known.
  first = int(wanted.any(axis=1).argmax())
  padded = jnp.pad(prompt, ((0, 0), (0, frames), (0, 0)), constant_values=-1)
  rows = F.arranged(padded, pattern)[None]
  if guidance is not None and text is not None:
    rows, text = (jnp.concatenate([x, x]) for x in (rows, text))
    there = jnp.concatenate([there, jnp.zeros_like(there)])
  elif guidance is not None:
    rows = jnp.concatenate([rows, jnp.full_like(rows, -1)])
  sides = len(rows)
  apply = functools.partial(model.apply, {"params": params})

  def foretold(before, cache, start, text=None):
    logits, cache = apply(before.reshape(-1, *before.shape[2:]), cache, start, text, there)
    logits = logits[:, -1].reshape(sides, batch, books, -1)
    if guidance is not None:
      logits = logits[1] + guidance * (logits[0] - logits[1])
      return logits, cache
    return logits[0], cache

  def drawn(logits, key):
    if top_k is not None:
      least = jax.lax.top_k(logits, top_k)[0][..., -1:]
      logits = jnp.where(logits < least, -jnp.inf, logits)
    # A Gumbel variable on each logit makes the largest one a draw.
    return jnp.argmax(logits + temperature * jax.random.gumbel(key, logits.shape), axis=-1)

  def written(rows, codes, step):
    """The rows with what was drawn for a step, where it is wanted."""
    old = jax.lax.dynamic_index_in_dim(rows, step, 2, keepdims=False)
    new = jnp.where(jnp.asarray(wanted)[step], codes, old)
    return jax.lax.dynamic_update_index_in_dim(rows, new, step, 2)

  def next_step(carry, step):
    rows, cache = carry
    before = jax.lax.dynamic_slice_in_dim(rows, step - 1, 1, axis=2)
    logits, cache = foretold(before, cache, step)
    rows = written(rows, drawn(logits, jax.random.fold_in(key, step)), step)
    return (rows, cache), None

  cache = model.init_cache(sides * batch, len(pattern), params["tables"].dtype)
  start = jnp.pad(rows[:, :, :first], ((0, 0), (0, 0), (1, 0), (0, 0)), constant_values=-1)
  logits, cache = foretold(start, cache, 0, text)
  rows = written(rows, drawn(logits, jax.random.fold_in(key, first)), first)
  steps = jnp.arange(first + 1, len(pattern))
  (rows, _), _ = jax.lax.scan(next_step, (rows, cache), steps)
  return F.restored(rows[0], pattern)
