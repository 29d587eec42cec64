"""Reads HiFi-Codec checkpoints as AcademiCodec publishes them: its configuration as `config.json`
beside a file of `torch.save` with the encoder, the quantizer and the generator."""

import itertools
import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcodec.audio.dac import bitrates
from jaxcodec.audio.hifi_codec import HiFiCodec, HiFiConfig
from jaxcodec.codec import Codec
from jaxcodec.errors import CodecError
from jaxcodec.hub.authors import read_weights
from jaxcodec.hub.checkpoint import Tensors, check_like, folded_weight

# As egs/HiFi-Codec-24k-320d has them. Its program fixes the stages of a group and the width of the
# encoder; the latents are as wide as its last layer.
_DEFAULTS: dict[str, Any] = {
  "sampling_rate": 24_000,
  "upsample_rates": [8, 5, 4, 2],
  "upsample_kernel_sizes": [16, 11, 8, 4],
  "upsample_initial_channel": 512,
  "resblock_kernel_sizes": [3, 7, 11],
  "n_code_groups": 2,
  "n_codes": 1024,
}
_STAGES = 2


def is_hifi_codec(config: dict[str, Any]) -> bool:
  return "n_code_groups" in config and "upsample_rates" in config


def load_hifi_codec(directory: pathlib.Path, config: dict[str, Any], name: str) -> Codec:
  """A codec from a directory that holds `config` and the checkpoint.

  Raises:
    CodecError: if a value of the configuration is not supported, or a weight is missing, extra or
      of the wrong shape; the message names it.
  """
  tensors = read_weights(directory, ("encoder.", "quantizer.", "generator."))
  module = read_module(config, tensors)
  params = {
    "encoder": _encoder(_Half(tensors, "encoder."), module.net),
    "decoder": _decoder(_Half(tensors, "generator."), module.net),
    "quantizer": {"codebooks": _codebooks(tensors, module)},
  }
  tensors.finish()
  prior = jnp.ones((module.num_codebooks, module.codebook_size), jnp.int32)
  return Codec(module=module, params=params, prior=prior, name=name)


def read_module(config: dict[str, Any], tensors: Tensors) -> HiFiCodec:
  """The module that a configuration and the weights describe."""
  values = {key: config.get(key, default) for key, default in _DEFAULTS.items()}
  for key, default in _DEFAULTS.items():
    check_like(values[key], default, f"HiFi-Codec configuration: {key}")
  dilations = config.get("resblock_dilation_sizes", [[1, 3, 5]])
  if config.get("resblock", "1") != "1" or dilations != [[1, 3, 5]] * len(dilations):
    raise CodecError("HiFi-Codec configuration: resblock is not HiFi-GAN's first kind")
  strides, kernels = values["upsample_rates"], values["upsample_kernel_sizes"]
  if len(strides) != len(kernels) or any(
    k < s or (k - s) % 2 for k, s in zip(kernels, strides, strict=True)
  ):
    raise CodecError(
      f"HiFi-Codec configuration: upsample_kernel_sizes {kernels} do not fit rates {strides}"
    )
  width = _size(tensors, "encoder.conv_pre.bias")
  net = HiFiConfig(
    encoder_width=width,
    decoder_width=values["upsample_initial_channel"],
    strides=tuple(reversed(strides)),
    kernel_sizes=tuple(reversed(kernels)),
    block_kernels=tuple(values["resblock_kernel_sizes"]),
    dimension=_size(tensors, "encoder.conv_post.bias"),
  )
  groups, size, rate = values["n_code_groups"], values["n_codes"], values["sampling_rate"]
  if size < 2 or net.dimension % groups or (2 * width) % net.group_width:
    raise CodecError(f"HiFi-Codec configuration: {groups} groups of {size} codes do not fit")
  count = groups * _STAGES
  return HiFiCodec(
    net=net,
    sample_rate=rate,
    num_codebooks=count,
    codebook_size=size,
    num_groups=groups,
    bitrates=bitrates(rate, math.prod(strides), count, size)[-1:],
  )


def _size(tensors: Tensors, name: str) -> int:
  if name not in tensors or len(tensors.shape(name)) != 1:
    raise CodecError(f"{tensors.path} lacks the weight {name}")
  return tensors.shape(name)[0]


class _Half:
  """Parameters of layers by their names in one half."""

  def __init__(self, tensors: Tensors, prefix: str):
    self.tensors, self.prefix = tensors, prefix

  def conv(self, name: str, features_in: int, features_out: int, taps: int, *, up: bool = False):
    name = f"{self.prefix}{name}."
    shape = (features_in, features_out, taps) if up else (features_out, features_in, taps)
    kernel = folded_weight(self.tensors, name, shape)
    return {
      "kernel": jnp.asarray(kernel.transpose((2, 0, 1) if up else (2, 1, 0))),
      "bias": jnp.asarray(self.tensors.take(name + "bias", (features_out,))),
    }

  def norm(self, name: str, features: int):
    name = f"{self.prefix}{name}."
    scale, bias = (self.tensors.take(name + part, (features,)) for part in ("weight", "bias"))
    return {"norm": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}}

  def block(self, number: int, width: int, taps: int, net: HiFiConfig):
    return {
      f"unit_{i}": {
        f"conv_{j}": self.conv(f"resblocks.{number}.convs{j + 1}.{i}", width, width, taps)
        for j in range(2)
      }
      for i in range(len(net.dilations))
    }


def _encoder(half: _Half, net: HiFiConfig) -> dict[str, Any]:
  width, numbers = net.encoder_width, itertools.count()
  params: dict[str, Any] = {"conv_in": half.conv("conv_pre", 1, width, 7)}
  for i, taps in enumerate(net.kernel_sizes):
    params[f"down_{i}"] = half.conv(f"ups.{i}", width, 2 * width, taps)
    width *= 2
    blocks = params[f"blocks_{i}"] = {}
    for j, kernel in enumerate(reversed(net.block_kernels)):
      number = next(numbers)
      blocks[f"block_{j}"] = half.block(number, width, kernel, net)
      blocks[f"norm_{j}"] = half.norm(f"normalize.{number}", width)
  return params | {"conv_out": half.conv("conv_post", width, net.dimension, 3)}


def _decoder(half: _Half, net: HiFiConfig) -> dict[str, Any]:
  width, numbers = net.decoder_width, itertools.count()
  params: dict[str, Any] = {"conv_in": half.conv("conv_pre", net.dimension, width, 7)}
  for i, taps in enumerate(reversed(net.kernel_sizes)):
    params[f"up_{i}"] = half.conv(f"ups.{i}", width, width // 2, taps, up=True)
    width //= 2
    params[f"blocks_{i}"] = {
      f"block_{j}": half.block(next(numbers), width, kernel, net)
      for j, kernel in enumerate(net.block_kernels)
    }
  return params | {"conv_out": half.conv("conv_post", width, 1, 7)}


def _codebooks(tensors: Tensors, module: HiFiCodec):
  groups = module.num_groups
  shape = (module.codebook_size, module.net.dimension // groups)
  books = [
    [
      tensors.take(f"quantizer.quantizer_modules{stage}.{group}.embedding.weight", shape)
      for stage in ("", "2")
    ]
    for group in range(groups)
  ]
  return jnp.asarray(np.stack(books))
