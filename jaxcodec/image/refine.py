"""Latents of one picture made better for it, before they are rounded; no decoder knows of it.

An analysis transform serves all pictures. For one of them y and z themselves are moved down the
slope of bits plus lambda times the error, the networks held still. Rounding has no slope: each
latent is a mix of the two whole steps that it lies between, drawn by Gumbel noise and with a
temperature that falls until only one is left (stochastic Gumbel annealing).
Source: Yang et al., https://arxiv.org/abs/2006.04240, section 3.2; MLICv2+,
https://arxiv.org/abs/2504.19119, does so.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcodec.image.factorized import FactorizedPrior
from jaxcodec.image.latent_codec import LatentCodec, analysed
from jaxcodec.image.picture_codec import Rounded, rate_distortion

_LENGTH = 2000  # Steps of the published schedule, and of Adam at its published rate.
_RATE = 5e-3
_NEAR = 1e-5  # No latent counts as nearer to a whole step than this.
_ABOUT = 0.5  # Levels to each side of a quality that tell how a curve goes up.


def refined(
  codec: LatentCodec,
  x: np.ndarray,
  quality: float | None = None,
  *,
  steps: int,
  trade_off: float | None = None,
  size: tuple[int, int] | None = None,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """`(y, z)` for a picture [H, W, 3], to be rounded as `latent_codec.encode` does.

  They are those of the analysis if no better ones are found.

  Args:
    steps: of Adam; each takes a few times as long as decoding.
    trade_off: what a squared error of samples from 0 to 255 counts in bits a pixel; None for that
      of the codec's own curve, see `trade_off_of`.
    size: height and width of the part from the top left that counts; None for all of it.
    seed: of the noise.

  Raises:
    ValueError: if `steps` or `trade_off` is not above zero, or as `trade_off_of`.
  """
  if steps < 1 or (trade_off is not None and not trade_off > 0):
    raise ValueError(f"refining takes steps and a trade-off above zero, not {steps}, {trade_off}")
  if trade_off is None:
    trade_off = trade_off_of(codec, x, quality, size=size)
  fixed = codec.params, x[None], _there(x, size), quality, trade_off
  start = latents = analysed(codec, x[None], quality)
  # Fewer steps are wider, so that latents come about as far.
  optimizer = optax.adam(_RATE * (_LENGTH / steps) ** 0.5)
  state = optimizer.init(latents)
  for step in range(steps):
    key, tau = jax.random.fold_in(jax.random.key(seed), step), temperature(step, steps)
    gradient = _slope(latents, key, tau, *fixed, module=codec.module)
    updates, state = optimizer.update(gradient, state)
    latents = optax.apply_updates(latents, updates)
  before, after = (float(_cost(part, *fixed, module=codec.module)) for part in (start, latents))
  y, z = (np.asarray(part)[0] for part in (latents if after < before else start))
  return y, y if isinstance(codec.module, FactorizedPrior) else z


def temperature(step: int, steps: int) -> float:
  """Of a step, at most 1/2: the published schedule, drawn out or in to the number of steps."""
  return float(np.minimum(0.5, np.exp(-1e-3 * (step * _LENGTH / steps - 700))))


def annealed(key, tau) -> Rounded:
  """Rounding about means that has a slope, at the temperature `tau`; every call draws anew."""
  count = itertools.count()

  def rounded(z, means):
    u = z - means
    below = jax.lax.stop_gradient(jnp.floor(u))
    share = jnp.clip(u - below, _NEAR, 1 - _NEAR)
    logits = -jnp.arctanh(jnp.stack([share, 1 - share])) / tau
    noise = jax.random.gumbel(jax.random.fold_in(key, next(count)), logits.shape)
    _, above = jax.nn.softmax((logits + noise) / tau, axis=0)
    return below + above + means

  return rounded


def trade_off_of(
  codec: LatentCodec,
  x: np.ndarray,
  quality: float | None,
  *,
  size: tuple[int, int] | None = None,
) -> float:
  """The lambda of a codec of many rates for a picture [H, W, 3]: bits for an error that its own
  curve goes up at a quality, which is what it was trained for as far as it learnt it.

  Arguments as of `refined`.

  Raises:
    ValueError: if it has one rate, or a higher quality does not cost bits or is not better.
  """
  if quality is None:
    raise ValueError("a codec of one quality does not show its trade-off: give one")
  ends = (max(quality - _ABOUT, 0), min(quality + _ABOUT, codec.module.levels - 1))
  there, found = _there(x, size), []
  for end in ends:
    latents = analysed(codec, x[None], end)
    found.append(_parts(latents, codec.params, x[None], there, end, module=codec.module))
  (bits, error), (more, less) = np.asarray(found, np.float64)
  if not (more > bits and less < error):
    raise ValueError("a higher quality is not better for its bits here: give a trade-off")
  return float((more - bits) / (error - less))


def _there(x: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
  """float32 [H, W, 1], one where a picture counts."""
  height, width = x.shape[:2] if size is None else size
  there = np.zeros((*x.shape[:2], 1), np.float32)
  there[:height, :width] = 1
  return there


def _loss(latents, params, x, there, quality, trade_off, *, module, **how):
  coded = module.apply({"params": params}, *latents, quality=quality, method="code", **how)
  return rate_distortion(x, coded, trade_off, there)[2][0]


_cost = functools.partial(jax.jit, static_argnames="module")(_loss)


@functools.partial(jax.jit, static_argnames="module")
def _slope(latents, key, tau, *fixed, module):
  return jax.grad(_loss)(latents, *fixed, module=module, rounded=annealed(key, tau))


@functools.partial(jax.jit, static_argnames="module")
def _parts(latents, params, x, there, quality, *, module):
  """Bits a pixel and the squared error."""
  coded = module.apply({"params": params}, *latents, quality=quality, method="code")
  return jnp.stack([part[0] for part in rate_distortion(x, coded, 0.0, there)[:2]])
