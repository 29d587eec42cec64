"""Layers whose results, on a CPU, depend on their inputs to the last bit and on no length."""

from jaxcodec.layers.conv import Conv1d
from jaxcodec.layers.recurrent import LSTM


def steadily(call, args, kwargs, context):
  """For `nn.intercept_methods`: such layers as can are called with `steady=True`."""
  if isinstance(context.module, Conv1d | LSTM) and context.method_name == "__call__":
    kwargs |= {"steady": True}
  return call(*args, **kwargs)
