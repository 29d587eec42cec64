"""Recurrent layers that own their parameters."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec import functional as F


class LSTM(nn.Module):
  """A stack of LSTM layers with a skip around it: [B, T, D] -> ([B, T, D], state).

  Attributes:
    num_layers: layers, each as wide as the input.
  """

  num_layers: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None, steady: bool = False):
    del final, length  # Nothing is padded, and no step sees a later one.
    y, states = x, []
    for i in range(self.num_layers):
      before = None if state is None else state[i]
      weights = _weights(self, x.shape[-1], x.shape[-1], str(i))
      y, after = F.lstm(y, *weights, before, steady=steady)
      states.append(after)
    return y + x, tuple(states)


class BidirectionalLSTM(nn.Module):
  """A stack of LSTM layers, each read both ways: [B, T, D] -> ([B, T, 2 features], ()).

  A row that ends early is read backwards from its own end.

  Attributes:
    features: of each way.
    num_layers: layers.
    skip: whether the input, as wide as `features`, stands beside itself as the skip. Source:
      SpeechTokenizer, https://arxiv.org/abs/2308.16692, modules/lstm.py of its code.

  Raises:
    ValueError: if x is but a part of a signal.
  """

  features: int
  num_layers: int
  skip: bool = False

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    if state is not None or not final:
      raise ValueError("an LSTM that reads backwards needs the whole signal")
    y = x
    for i in range(self.num_layers):
      ahead = _weights(self, y.shape[-1], self.features, str(i))
      back = _weights(self, y.shape[-1], self.features, f"{i}_back")
      y = F.bidirectional_lstm(y, ahead, back, length)
    return y + jnp.concatenate([x, x], axis=-1) if self.skip else y, ()


def _weights(layer: nn.Module, features: int, width: int, name: str) -> tuple[Any, Any, Any]:
  """Input kernel, recurrent kernel and bias, as PyTorch begins them."""
  init = nn.initializers.uniform(2 * width**-0.5)

  def centred(key, shape):
    return init(key, shape) - width**-0.5

  return (
    layer.param(f"input_kernel_{name}", centred, (features, 4 * width)),
    layer.param(f"recurrent_kernel_{name}", centred, (width, 4 * width)),
    layer.param(f"bias_{name}", centred, (4 * width,)),
  )
