"""Diffusion: how noise grows, and samplers that take it away again.

Shapes: x [B, ...] samples, t int32 [B] steps. At step t x is sqrt(a) x_0 + sqrt(1 - a) e with the
share a[t] of the clean sample; v = sqrt(a) e - sqrt(1 - a) x_0.
Source: Song et al., https://arxiv.org/abs/2010.02502 (DDIM); Salimans and Ho,
https://arxiv.org/abs/2202.00512 (v); Ho and Salimans, https://arxiv.org/abs/2207.12598 (guidance).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def clean_shares(num_steps: int, first: float, last: float) -> np.ndarray:
  """a [num_steps]: the product so far of 1 - beta; betas are linear in their square roots.

  That is what latent diffusion calls a linear schedule.
  """
  betas = np.linspace(first**0.5, last**0.5, num_steps) ** 2
  return np.cumprod(1 - betas)


class Schedule(NamedTuple):
  """The steps of a sampler, noisiest first, each float64 [S] but `steps`.

  Attributes:
    steps: int32, t that the network is told.
    share, after: a at the step and where it leads.
    sigma: standard deviation of the noise that a step adds.
  """

  steps: np.ndarray
  share: np.ndarray
  after: np.ndarray
  sigma: np.ndarray


def ddim_schedule(shares: np.ndarray, count: int, eta: float) -> Schedule:
  """Steps spread evenly, `count` of them or one more where it does not divide.

  Args:
    eta: 0 for none of the noise that ancestral sampling adds, 1 for all.

  Raises:
    ValueError: if `count` is below 1 or above half of the steps there are.
  """
  if not 1 <= count <= len(shares) // 2:
    raise ValueError(f"{count} steps of a sampler for {len(shares)} of diffusion: 1 to half")
  # One later, as in the source of latent diffusion: the last step ends at a[0], not at 1.
  steps = np.arange(0, len(shares) - 1, len(shares) // count) + 1
  share, after = shares[steps], shares[np.concatenate([[0], steps[:-1]])]
  sigma = eta * np.sqrt((1 - after) / (1 - share) * (1 - share / after))
  return Schedule(*(part[::-1] for part in (steps.astype(np.int32), share, after, sigma)))


def diffused(x, noise, share):
  """`(noisy, v)` of clean x at shares [B]: what a network sees, and what it learns to say."""
  share = share.reshape(-1, *(1,) * (x.ndim - 1))
  clean, dirty = jnp.sqrt(share), jnp.sqrt(1 - share)
  return clean * x + dirty * noise, clean * noise - dirty * x


def guided(absent, present, scale: float):
  """A prediction without the condition moved through the one with it, `scale` times as far."""
  return absent + scale * (present - absent)


def ddim(predict: Callable, x, noises, schedule: Schedule):
  """The clean sample that noise x leads to.

  Args:
    predict: `(x, t) -> v`, t an int32 scalar.
    noises: [S, ...], as x without its rows or with them; what each step adds, times its sigma.

  Returns:
    As x. One loop: `predict` is compiled once.
  """

  def step(x, inputs):
    t, share, after, sigma, noise = inputs
    v = predict(x, t)
    clean = jnp.sqrt(share) * x - jnp.sqrt(1 - share) * v
    error = jnp.sqrt(share) * v + jnp.sqrt(1 - share) * x
    # Rounding may leave the root of a tiny negative number.
    towards = jnp.sqrt(jnp.maximum(1 - after - sigma**2, 0)) * error
    return jnp.sqrt(after) * clean + towards + sigma * noise, None

  numbers = (jnp.asarray(part, jnp.float32) for part in schedule[1:])
  x, _ = jax.lax.scan(step, x, (jnp.asarray(schedule.steps), *numbers, noises))
  return x


def step_embedding(t, features: int):
  """[B] -> [B, features]: cosines, then sines, at frequencies from 1 down to almost 1e-4."""
  half = features // 2
  angles = t.astype(jnp.float32)[:, None] * jnp.exp(-np.log(10_000) * np.arange(half) / half)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
