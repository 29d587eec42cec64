"""Norms of signals whose rows may end early; see `layers.chain`. x is [B, T, C]."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict


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


class BatchNorm(nn.Module):
  """Normalises each feature by the mean and variance that training data had.

  These are parameters without a gradient. In training x is normalised by its own batch, and the
  statistics go into `found`; the step writes them (`batch_statistics`). Everything is float32.

  Attributes:
    epsilon: added to the variance.
  """

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x, found: dict[str, Any] | None = None):
    """Normalises x [..., C]; `found` gets `(mean, variance)` under this layer's path.

    The variance is the unbiased one, while the batch is divided by the biased one, as PyTorch does.
    """
    width = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones, width)
    bias = self.param("bias", nn.initializers.zeros, width)
    mean = self.param("mean", nn.initializers.zeros, width)
    variance = self.param("variance", nn.initializers.ones, width)
    x, dtype = x.astype(jnp.float32), x.dtype
    if found is not None:
      axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
      mean = x.mean(axis=axes)
      variance = jnp.square(x - mean).mean(axis=axes)
      found["/".join(self.path)] = mean, variance * (count / max(1, count - 1))
    gain = scale * jax.lax.rsqrt(variance + self.epsilon)
    return ((x - mean) * gain + bias).astype(dtype)


def batch_statistics(params, found: dict[str, Any], momentum: float = 0.1):
  """`params` with the running statistics of every `BatchNorm` moved towards those `found`."""
  flat = flatten_dict(params, sep="/")
  for path, statistics in found.items():
    for name, value in zip(("mean", "variance"), statistics, strict=True):
      old = flat[f"{path}/{name}"]
      flat[f"{path}/{name}"] = old + momentum * (value - old)
  return unflatten_dict(flat, sep="/")


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
