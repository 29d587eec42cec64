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
