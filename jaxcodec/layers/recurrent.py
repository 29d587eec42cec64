"""Recurrent layers that own their parameters."""

import flax.linen as nn

from jaxcodec import functional as F


class LSTM(nn.Module):
  """A stack of LSTM layers with a skip around it: [B, T, D] -> ([B, T, D], state).

  Attributes:
    num_layers: layers, each as wide as the input.
  """

  num_layers: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    del final, length  # Nothing is padded, and no step sees a later one.
    width = x.shape[-1]
    init = nn.initializers.uniform(2 * width**-0.5)

    def centred(key, shape):
      return init(key, shape) - width**-0.5

    y, states = x, []
    for i in range(self.num_layers):
      input_kernel = self.param(f"input_kernel_{i}", centred, (width, 4 * width))
      recurrent_kernel = self.param(f"recurrent_kernel_{i}", centred, (width, 4 * width))
      bias = self.param(f"bias_{i}", centred, (4 * width,))
      before = None if state is None else state[i]
      y, after = F.lstm(y, input_kernel, recurrent_kernel, bias, before)
      states.append(after)
    return y + x, tuple(states)


class BiLSTM(nn.Module):
  """A stack of layers in both directions over whole signals: [B, T, D] -> [B, T, 2 features].

  Attributes:
    features: of each direction.
    num_layers: layers.
  """

  features: int
  num_layers: int

  @nn.compact
  def __call__(self, x):
    size = self.features

    def drawn(key, shape):
      return nn.initializers.uniform(2 * size**-0.5)(key, shape) - size**-0.5

    for i in range(self.num_layers):
      ways = []
      for way in ("forward", "backward"):
        input_kernel = self.param(f"{way}_input_kernel_{i}", drawn, (x.shape[-1], 4 * size))
        recurrent_kernel = self.param(f"{way}_recurrent_kernel_{i}", drawn, (size, 4 * size))
        bias = self.param(f"{way}_bias_{i}", drawn, (4 * size,))
        ways.append((input_kernel, recurrent_kernel, bias))
      x = F.bidirectional_lstm(x, *ways)
    return x
