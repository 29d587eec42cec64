"""Norms of signals whose rows may end early; see `layers.chain`. x is [B, T, C]."""

import flax.linen as nn
import jax.numpy as jnp


class TimeGroupNorm(nn.Module):
  """Normalises groups of channels over all steps that a row has; the signal must be whole.

  Attributes:
    num_groups: runs of channels side by side.
    epsilon: added to the variance.
  """

  num_groups: int
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    norm = nn.GroupNorm(self.num_groups, epsilon=self.epsilon, use_fast_variance=False, name="norm")
    return norm_over_time(norm, x, state, final, length).astype(x.dtype), ()


def norm_over_time(norm: nn.GroupNorm, x, state, final: bool, length):
  """`norm` of x in float32, statistics of the first `length` [B] steps of each row.

  Raises:
    ValueError: if x is but a part of a signal.
  """
  if state is not None or not final:
    raise ValueError("a norm over time needs the whole signal: chunks have other statistics")
  there = None
  if length is not None:
    steps = jnp.arange(x.shape[1])[:, None] < length[:, None, None]
    there = jnp.broadcast_to(steps, x.shape)
  return norm(x.astype(jnp.float32), mask=there)
