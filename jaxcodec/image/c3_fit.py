"""Fits C3 to pictures, many of one size at once: first with noise for rounding, then with rounding.

Shapes: B pictures [B, H, W, 3] in [0, 1]; all else has B in front too.
Source: Kim et al., https://arxiv.org/abs/2312.02753, section 3 and appendix; experiments/image.py.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcodec import functional as F
from jaxcodec.image import c3
from jaxcodec.image.c3 import EntropyNetwork, Synthesis

MOST = 1000.0  # No integer is further from zero.
_AT_ONCE = 100  # Steps of one compiled loop.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
  """What is fitted and how; the defaults are those for Kodak, with fewer steps.

  Attributes:
    entropy, synthesis: the two networks.
    num_grids: K.
    step: what an integer stands for in the unit of the networks.
    rd_weight: squared error, of samples up to 1, that a bit a pixel is worth.
    noise_steps, rounded_steps: of the two stages.
    temperature, shape: first and last of soft rounding and of its noise, between them linear.
    learning_rate, rounded_learning_rate: at the start of each stage; the first falls to zero as a
      cosine, the second by a fifth after 20 steps that were no better than the best.
    clip_norm: the most that the norm of all gradients together may be.
    plain: COOL-CHIC's recipe instead: uniform noise without soft rounding, then rounding whose
      gradient is that of the identity.
  """

  entropy: EntropyNetwork = dataclasses.field(default_factory=EntropyNetwork)
  synthesis: Synthesis = dataclasses.field(default_factory=Synthesis)
  num_grids: int = 7
  step: float = 0.4
  rd_weight: float = 1e-3
  noise_steps: int = 10_000
  rounded_steps: int = 1_000
  temperature: tuple[float, float] = (0.3, 0.1)
  shape: tuple[float, float] = (2.0, 1.0)
  learning_rate: float = 1e-2
  rounded_learning_rate: float = 1e-4
  clip_norm: float = 0.1
  plain: bool = False


class Losses(NamedTuple):
  """Squared error, bits of the grids, and their sum as it is minimised."""

  error: jax.Array
  bits: jax.Array
  loss: jax.Array


class _State(NamedTuple):
  params: Any
  optimizer: Any
  best: Any
  best_loss: jax.Array
  waited: jax.Array
  rate: jax.Array


def init(fit: Fit, key, height: int, width: int) -> Any:
  """Parameters of one picture: "grids", of zeros, "entropy" and "synthesis"."""
  first, second = jax.random.split(key)
  taps = len(c3.taps_of(fit.entropy.context))
  return {
    "grids": [jnp.zeros(shape) for shape in c3.grid_shapes(height, width, fit.num_grids)],
    "entropy": fit.entropy.init(first, jnp.zeros((1, taps)))["params"],
    "synthesis": fit.synthesis.init(second, jnp.zeros((1, 1, fit.num_grids)))["params"],
  }


def integers(grids):
  """All numbers [N] of grids before rounding, grid by grid: coarse ones move in larger steps."""
  flat = jnp.concatenate([2.0**k * grid.ravel() for k, grid in enumerate(grids)])
  return jnp.clip(flat, -MOST, MOST)


def losses(fit: Fit, networks, flat, x) -> Losses:
  """What a picture [H, W, 3] costs with integers [N], rounded or what stands for it."""
  height, width, _ = x.shape
  shapes = tuple(c3.grid_shapes(height, width, fit.num_grids))
  contexts = c3.contexts_of(fit.step * flat, shapes, fit.entropy.context)
  loc, scale = fit.entropy.apply({"params": networks["entropy"]}, contexts)
  bits = F.laplace_bits(flat, loc / fit.step, scale / fit.step).sum()
  bounds = np.cumsum([h * w for h, w in shapes])[:-1]
  parts = jnp.split(fit.step * flat, bounds)
  grids = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
  stretched = c3.stretched(grids, height, width)
  y = fit.synthesis.apply({"params": networks["synthesis"]}, stretched)
  error = jnp.mean(jnp.square(jnp.clip(y, 0, 1) - x))
  return Losses(error, bits, error + fit.rd_weight * bits / (height * width))


def fit_pictures(
  fit: Fit, key, x, progress: Callable[[int, Losses], None] | None = None
) -> tuple[Any, Losses]:
  """Parameters of pictures [B, H, W, 3], and their losses with rounded grids, [B] each.

  Args:
    progress: told the steps done and the losses of the last, a hundred at a time.
  """
  count, height, width, _ = x.shape
  keys = jax.random.split(key, count)
  params = jax.jit(jax.vmap(lambda key: init(fit, key, height, width)))(keys)
  optimizer = jax.vmap(_optimizer(fit).init)(params)
  done = 0

  def run(stage, state, steps: int):
    nonlocal done
    for start in range(0, steps, _AT_ONCE):
      numbers = jnp.arange(start, min(start + _AT_ONCE, steps))
      state, found = stage(fit, x, keys, state, numbers)
      done += len(numbers)
      if progress:
        progress(done, found)
    return state

  params, optimizer = run(_with_noise, (params, optimizer), fit.noise_steps)
  found = evaluate(fit, params, x)
  rate = jnp.full(count, fit.rounded_learning_rate)
  waited = jnp.zeros(count, jnp.int32)
  state = _State(params, optimizer, params, found.loss, waited, rate)
  params = run(_rounded, state, fit.rounded_steps).best
  return params, evaluate(fit, params, x)


@functools.partial(jax.jit, static_argnames="fit")
def evaluate(fit: Fit, params, x) -> Losses:
  """Losses [B] of parameters with rounded grids."""

  def one(params, x):
    return losses(fit, params, jnp.round(integers(params["grids"])), x)

  return jax.vmap(one)(params, x)


def _optimizer(fit: Fit):
  return optax.chain(optax.clip_by_global_norm(fit.clip_norm), optax.scale_by_adam())


def _step(fit: Fit, params, optimizer, rate, x, rounding):
  """`(params, optimizer, losses)` after a step at a learning rate."""

  def loss(params):
    found = losses(fit, params, rounding(integers(params["grids"])), x)
    return found.loss, found

  grads, found = jax.grad(loss, has_aux=True)(params)
  updates, optimizer = _optimizer(fit).update(grads, optimizer)
  updates = jax.tree.map(lambda update: -rate * update, updates)
  return optax.apply_updates(params, updates), optimizer, found


@functools.partial(jax.jit, static_argnames="fit")
def _with_noise(fit: Fit, x, keys, state, numbers):
  def one(x, key, state, number):
    share = number / max(fit.noise_steps - 1, 1)
    temperature, shape = (a + share * (b - a) for a, b in (fit.temperature, fit.shape))
    rate = 0.5 * fit.learning_rate * (1 + jnp.cos(jnp.pi * number / fit.noise_steps))
    params, optimizer = state
    drawn = jax.random.fold_in(key, number)

    def rounding(flat):
      if fit.plain:
        return F.uniform_noise(drawn, flat)
      noise = jax.random.uniform(drawn, flat.shape)
      return F.noisy_soft_round(flat, noise, temperature, shape)

    return _step(fit, params, optimizer, rate, x, rounding)

  def body(state, number):
    params, optimizer, found = jax.vmap(one, in_axes=(0, 0, 0, None))(x, keys, state, number)
    return (params, optimizer), found

  state, found = jax.lax.scan(body, state, numbers)
  return state, jax.tree.map(lambda leaf: leaf[-1], found)


@functools.partial(jax.jit, static_argnames="fit")
def _rounded(fit: Fit, x, keys, state: _State, numbers):
  del keys  # Nothing is drawn.

  def rounding(flat):
    return F.round_about(flat) if fit.plain else F.hard_soft_round(flat, 1e-4)

  def one(x, state: _State):
    params, optimizer, found = _step(fit, state.params, state.optimizer, state.rate, x, rounding)
    better = found.loss < state.best_loss
    best = jax.tree.map(lambda a, b: jnp.where(better, a, b), state.params, state.best)
    waited = jnp.where(better, 0, state.waited + 1)
    late = waited == 20
    # Back to the best, and slower.
    params = jax.tree.map(lambda a, b: jnp.where(late, b, a), params, best)
    rate = jnp.where(late, 0.8 * state.rate, state.rate)
    best_loss = jnp.minimum(found.loss, state.best_loss)
    return _State(params, optimizer, best, best_loss, jnp.where(late, 0, waited), rate), found

  def body(state, _):
    return jax.vmap(one)(x, state)

  state, found = jax.lax.scan(body, state, numbers)
  return state, jax.tree.map(lambda leaf: leaf[-1], found)
