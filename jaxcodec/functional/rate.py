"""The scalar models of learned compression: rounding that can be learned through, and its price.

Numbers are rounded to integers; a density convolved with a unit box gives each integer's
probability. Everything is elementwise or has channels last.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec.functional.through import straight_through


class Factorized(NamedTuple):
  """A monotone network per channel, from a number to the logit of its cumulative probability.

  Attributes:
    matrices: [C, f_(i+1), f_i] each, the first f and the last 1.
    biases: [C, f_(i+1)] each.
    factors: [C, f_(i+1)] each, of all layers but the last.
  """

  matrices: Sequence[jax.Array]
  biases: Sequence[jax.Array]
  factors: Sequence[jax.Array]


def uniform_noise(key, z):
  """`z` plus noise uniform in [-1/2, 1/2): rounding as learned compression trains with it.

  Source: Ballé et al., https://arxiv.org/abs/1611.01704, section 3.
  """
  return z + jax.random.uniform(key, z.shape, z.dtype, -0.5, 0.5)


def round_about(z, means=0.0):
  """`z` at the nearest whole number of steps from `means`; the gradient passes to `z` alone."""
  return straight_through(z, jax.lax.stop_gradient(jnp.round(z - means) + means))


def soft_round(z, alpha):
  """Rounding with a slope: near 0 for `alpha` the identity, for infinity `round`.

  floor(z) + 1/2 + tanh(alpha r) / (2 tanh(alpha / 2)), r the rest of z about that middle. Source:
  Agustsson and Theis, https://arxiv.org/abs/2006.09952, equation 12.
  """
  if _is_small(alpha):  # There the quotient of two small numbers would decide.
    return z
  middle = jnp.floor(z) + 0.5
  return middle + jnp.tanh(alpha * (z - middle)) / (2 * jnp.tanh(alpha / 2))


def soft_round_inverse(z, alpha):
  """The inverse of `soft_round`."""
  if _is_small(alpha):
    return z
  middle = jnp.floor(z) + 0.5
  inner = jnp.clip((z - middle) * 2 * jnp.tanh(alpha / 2), -1 + 1e-7, 1 - 1e-7)
  return middle + jnp.arctanh(inner) / alpha


def _is_small(alpha) -> bool:
  """Whether `alpha`, a number or one that is traced and then large, makes rounding the identity."""
  return not isinstance(alpha, jax.Array) and alpha < 1e-3


@jax.custom_vjp
def lower_bound(x, bound):
  """max(x, bound); backward the identity also below the bound where a step would lead upwards."""
  return jnp.maximum(x, bound)


def _lower_bound_fwd(x, bound):
  return jnp.maximum(x, bound), (x, bound)


def _lower_bound_bwd(residuals, g):
  x, bound = residuals
  return jnp.where((x >= bound) | (g < 0), g, 0), jnp.zeros_like(bound)


lower_bound.defvjp(_lower_bound_fwd, _lower_bound_bwd)


def factorized_logits(z, model: Factorized):
  """Logits of the cumulative probability of z [..., C], elementwise in C.

  Source: Ballé et al., https://arxiv.org/abs/1802.01436, appendix 6.1.
  """
  x = z[..., None]
  for i, (matrix, bias) in enumerate(zip(model.matrices, model.biases, strict=True)):
    # Sums of at most a few products: so every backend adds them as they are written.
    x = jnp.sum(jax.nn.softplus(matrix) * x[..., None, :], axis=-1) + bias
    if i < len(model.factors):
      x = x + jnp.tanh(model.factors[i]) * jnp.tanh(x)
  return x[..., 0]


def factorized_likelihood(z, model: Factorized):
  """Probability of [z - 1/2, z + 1/2], elementwise for z [..., C].

  Both ends are taken in the lower tail by symmetry; the difference of two sigmoids near 1 would
  have no digits left.
  """
  lower, upper = factorized_logits(z - 0.5, model), factorized_logits(z + 0.5, model)
  sign = jax.lax.stop_gradient(jnp.where(lower + upper > 0, -1.0, 1.0))
  return jnp.abs(jax.nn.sigmoid(sign * upper) - jax.nn.sigmoid(sign * lower))


def gaussian_likelihood(z, scales, means=0.0, scale_bound: float = 0.11):
  """Probability of [z - 1/2, z + 1/2] under normal densities, elementwise.

  Scales below `scale_bound` count as the bound, see `lower_bound`.
  """
  scales = lower_bound(scales, jnp.float32(scale_bound))
  values = jnp.abs(z - means)
  upper, lower = (0.5 - values) / scales, (-0.5 - values) / scales
  half = -(2**-0.5)
  return 0.5 * (jax.lax.erfc(half * upper) - jax.lax.erfc(half * lower))


def information_bits(likelihood, bound: float = 1e-9):
  """-log2 of probabilities, none taken below `bound`."""
  return -jnp.log2(lower_bound(likelihood, jnp.float32(bound)))
