"""SEANet's parameters from the Hugging Face layouts of EnCodec and Mimi, and from encodec's own."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxcodec.hub.checkpoint import Tensors, folded_weight
from jaxcodec.layers.seanet import SEANetConfig


class Names(NamedTuple):
  """What a layout calls layers: `{start}{N}.`, and within them a convolution's weights."""

  start: str
  conv: str = "conv."


_ENCODER, _DECODER = Names("encoder.layers."), Names("decoder.layers.")


def seanet_encoder(tensors: Tensors, net: SEANetConfig, names: Names = _ENCODER) -> dict[str, Any]:
  """Parameters of `SEANetEncoder` from the numbered layers."""
  layers = _Layers(tensors, names, net)
  width = net.num_filters
  params = {"conv_in": layers.conv(net.channels, width, net.kernel_size)}
  for i, stride in enumerate(net.strides):
    for j in range(net.num_residual_layers):
      params[f"residual_{i}_{j}"] = layers.residual(width)
    layers.skip()
    params[f"down_{i}"] = layers.conv(width, 2 * width, 2 * stride)
    width *= 2
  if net.num_lstm_layers:
    params["lstm"] = layers.lstm(width)
  layers.skip()
  params["conv_out"] = layers.conv(width, net.dimension, net.last_kernel_size)
  return params


def seanet_decoder(tensors: Tensors, net: SEANetConfig, names: Names = _DECODER) -> dict[str, Any]:
  """Parameters of `SEANetDecoder` from the numbered layers."""
  layers = _Layers(tensors, names, net)
  width = net.num_filters * 2 ** len(net.strides)
  params = {"conv_in": layers.conv(net.dimension, width, net.kernel_size)}
  if net.num_lstm_layers:
    params["lstm"] = layers.lstm(width)
  for i, stride in enumerate(reversed(net.strides)):
    layers.skip()
    params[f"up_{i}"] = layers.conv_transpose(width, width // 2, 2 * stride)
    width //= 2
    for j in range(net.num_residual_layers):
      params[f"residual_{i}_{j}"] = layers.residual(width)
  layers.skip()
  params["conv_out"] = layers.conv(width, net.channels, net.last_kernel_size)
  return params


class _Layers:
  """Walks the numbered layers of one half; activations have numbers too."""

  def __init__(self, tensors: Tensors, names: Names, net: SEANetConfig):
    self.tensors, self.names, self.net, self.index = tensors, names, net, 0

  def skip(self) -> str:
    prefix = f"{self.names.start}{self.index}."
    self.index += 1
    return prefix

  def conv(self, features_in: int, features_out: int, width: int, prefix: str | None = None):
    shape = (features_out, features_in, width)
    return self._conv(prefix or self.skip(), shape, features_out, (2, 1, 0))

  def conv_transpose(self, features_in: int, features_out: int, width: int):
    return self._conv(self.skip(), (features_in, features_out, width), features_out, (2, 0, 1))

  def residual(self, width: int) -> dict[str, Any]:
    prefix, inner = self.skip(), width // self.net.compress
    params = {
      "conv_0": self.conv(width, inner, self.net.residual_kernel_size, prefix + "block.1."),
      "conv_1": self.conv(inner, width, 1, prefix + "block.3."),
    }
    if self.net.conv_shortcut:
      params["shortcut"] = self.conv(width, width, 1, prefix + "shortcut.")
    return params

  def lstm(self, width: int) -> dict[str, Any]:
    prefix, params = self.skip() + "lstm.", {}
    for i in range(self.net.num_lstm_layers):
      for ours, theirs in (("input_kernel", "weight_ih"), ("recurrent_kernel", "weight_hh")):
        kernel = self.tensors.take(f"{prefix}{theirs}_l{i}", (4 * width, width))
        params[f"{ours}_{i}"] = jnp.asarray(kernel.T)
      biases = [self.tensors.take(f"{prefix}bias_{s}_l{i}", (4 * width,)) for s in ("ih", "hh")]
      params[f"bias_{i}"] = jnp.asarray(biases[0] + biases[1])
    return params

  def _conv(self, prefix: str, shape: tuple[int, ...], features: int, axes) -> dict[str, Any]:
    name = prefix + self.names.conv
    kernel = folded_weight(self.tensors, name, shape)
    params: dict[str, Any] = {
      "kernel": jnp.asarray(kernel.transpose(axes)),
      "bias": jnp.asarray(self.tensors.take(name + "bias", (features,))),
    }
    if self.net.norm is not None:
      scale = self.tensors.take(prefix + "norm.weight", (features,))
      bias = self.tensors.take(prefix + "norm.bias", (features,))
      params["norm"] = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
    return params
