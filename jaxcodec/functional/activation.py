"""Activations that the frameworks lack."""

import jax.numpy as jnp


def snake(x, alpha):
  """x + sin(alpha x)^2 / (alpha + 1e-9): a ramp that repeats, for waves; alpha [C], x [..., C].

  Source: Ziyin et al., https://arxiv.org/abs/2006.08195; the small number is DAC's.
  """
  return x + jnp.sin(alpha * x) ** 2 / (alpha + 1e-9)
