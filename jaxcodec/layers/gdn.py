"""Generalized divisive normalization, with parameters that stay positive.

Source: Ballé et al., https://arxiv.org/abs/1511.06281; compressai/layers/gdn.py of CompressAI.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec import functional as F

_PEDESTAL = 2.0**-36
_LEAST_BETA = 1e-6


class GDN(nn.Module):
  """Divides each channel of x [..., C] by a norm over all of them, or multiplies.

  `beta` [C] and `gamma` [in, out] hold the square roots of what takes part, plus a pedestal, so
  that a step near zero is small; none falls below its bound, see `functional.lower_bound`.

  Attributes:
    inverse: whether to multiply: the decoder's half.
  """

  inverse: bool = False

  @nn.compact
  def __call__(self, x):
    features = x.shape[-1]
    beta = self.param("beta", lambda key: root(jnp.ones(features)))
    gamma = self.param("gamma", lambda key: root(0.1 * jnp.eye(features)))
    return F.generalized_norm(x, *_positive(beta, gamma), inverse=self.inverse)

  def arithmetic(self) -> F.Norm:
    """The layer as `layers.picture.InStrips` takes it."""
    own = self.variables["params"]
    beta, gamma = _positive(own["beta"], own["gamma"])
    return F.Norm(beta, gamma, self.inverse)


def _positive(beta, gamma):
  return positive(beta, _LEAST_BETA), positive(gamma, 0.0)


def root(values):
  """What stands for `values` >= 0 among the parameters."""
  return jnp.sqrt(jnp.maximum(values + _PEDESTAL, _PEDESTAL))


def positive(stored, least: float):
  """The values, at least `least`, that `root` stored."""
  return F.lower_bound(stored, jnp.float32((least + _PEDESTAL) ** 0.5)) ** 2 - _PEDESTAL
