"""SEANet's parameters from the Hugging Face layouts of EnCodec and Mimi, and from encodec's own."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxcodec.hub.checkpoint import Tensors, folded_weight
from jaxcodec.layers.seanet import SEANetConfig


class Names(NamedTuple):
  """What a layout calls layers: `{start}{N}.`, and within them a convolution's weights."""

  start: str
  conv: str = "conv."
  transposed: str = "conv."


_ENCODER, _DECODER = Names("encoder.layers."), Names("decoder.layers.")


def seanet_encoder(
  tensors: Tensors, net: SEANetConfig, names: Names = _ENCODER, *, bidirectional: bool = False
) -> dict[str, Any]:
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
    params["lstm"] = layers.lstm(width, bidirectional=bidirectional)
    width *= 2 if bidirectional else 1
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
    shape = (features_in, features_out, width)
    return self._conv(self.skip(), shape, features_out, (2, 0, 1), self.names.transposed)

  def residual(self, width: int) -> dict[str, Any]:
    prefix, inner = self.skip(), width // self.net.compress
    params = {
      "conv_0": self.conv(width, inner, self.net.residual_kernel_size, prefix + "block.1."),
      "conv_1": self.conv(inner, width, 1, prefix + "block.3."),
    }
    if self.net.conv_shortcut:
      params["shortcut"] = self.conv(width, width, 1, prefix + "shortcut.")
    return params

  def lstm(self, width: int, *, bidirectional: bool = False) -> dict[str, Any]:
    prefix, params = self.skip() + "lstm.", {}
    ways = (("", ""), ("_back", "_reverse")) if bidirectional else (("", ""),)
    for i in range(self.net.num_lstm_layers):
      features = width * len(ways) if i else width
      for ours, theirs in ways:
        for part, name, size in (
          ("input_kernel", "weight_ih", features),
          ("recurrent_kernel", "weight_hh", width),
        ):
          kernel = self.tensors.take(f"{prefix}{name}_l{i}{theirs}", (4 * width, size))
          params[f"{part}_{i}{ours}"] = jnp.asarray(kernel.T)
        names = [f"{prefix}bias_{part}_l{i}{theirs}" for part in ("ih", "hh")]
        biases = [self.tensors.take(name, (4 * width,)) for name in names]
        params[f"bias_{i}{ours}"] = jnp.asarray(biases[0] + biases[1])
    return params

  def _conv(
    self, prefix: str, shape: tuple[int, ...], features: int, axes, part: str | None = None
  ) -> dict[str, Any]:
    name = prefix + (part or self.names.conv)
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
