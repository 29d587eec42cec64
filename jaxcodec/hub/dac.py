"""Reads DAC checkpoints: the Hugging Face layout, and the `weights.pth` of the original package.

Both hold the same arrays under different names, so a checkpoint is a `Dac`, the arrays, and where
each of our layers finds its own.
"""

import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcodec.audio.dac import Dac, bitrates
from jaxcodec.codec import Codec
from jaxcodec.errors import CodecError
from jaxcodec.hub.checkpoint import Tensors, folded_weight, read_config
from jaxcodec.hub.torch_archive import read_torch
from jaxcodec.layers.dac import DILATIONS, DacConfig

# What each of the two calls a value, and takes for one that is left out.
_HUGGING_FACE: dict[str, tuple[str, Any]] = {
  "encoder_width": ("encoder_hidden_size", 64),
  "decoder_width": ("decoder_hidden_size", 1536),
  "strides": ("downsampling_ratios", [2, 4, 8, 8]),
  "upsampling": ("upsampling_ratios", None),
  "dimension": ("hidden_size", None),
  "num_codebooks": ("n_codebooks", 9),
  "codebook_size": ("codebook_size", 1024),
  "codebook_features": ("codebook_dim", 8),
  "sample_rate": ("sampling_rate", 16_000),
}
_ORIGINAL: dict[str, tuple[str, Any]] = {
  "encoder_width": ("encoder_dim", 64),
  "decoder_width": ("decoder_dim", 1536),
  "strides": ("encoder_rates", [2, 4, 8, 8]),
  "upsampling": ("decoder_rates", [8, 8, 4, 2]),
  "dimension": ("latent_dim", None),
  "num_codebooks": ("n_codebooks", 9),
  "codebook_size": ("codebook_size", 1024),
  "codebook_features": ("codebook_dim", 8),
  "sample_rate": ("sample_rate", 44_100),
}


def load_dac(directory: pathlib.Path, name: str) -> Codec:
  """A codec from `config.json` and `model.safetensors`, with weight norm or without.

  Raises:
    CodecError: if a value of the configuration is not supported, or a weight is missing, extra or
      of the wrong shape; the message names it.
  """
  module = read_module(read_config(directory), _HUGGING_FACE)
  return _codec(module, Tensors(directory), _hugging_face_names(len(module.net.strides)), name)


def load_original(path: pathlib.Path, name: str) -> Codec:
  """A codec from the `weights.pth` of the descript-audio-codec package; nothing in it is run.

  Raises:
    CodecError: as `load_dac`, and if the file holds more than arrays and plain values.
  """
  return of_content(read_torch(path), path, name)


def of_content(content: Any, path: pathlib.Path, name: str) -> Codec:
  """As `load_original`, of what the file `path` holds."""
  metadata = content.get("metadata") if isinstance(content, dict) else None
  config = metadata.get("kwargs") if isinstance(metadata, dict) else None
  if not isinstance(config, dict):
    raise CodecError(f"{path} describes no DAC model: it has no metadata with kwargs")
  arrays = content.get("state_dict")
  if not isinstance(arrays, dict) or not all(isinstance(a, np.ndarray) for a in arrays.values()):
    raise CodecError(f"{path} holds no state_dict of arrays")
  module = read_module(config, _ORIGINAL)
  arrays = {str(key): value for key, value in arrays.items()}
  return _codec(module, Tensors(path, arrays), _original_names(len(module.net.strides)), name)


def read_module(config: dict[str, Any], names: dict[str, tuple[str, Any]]) -> Dac:
  """The module that a configuration describes, its values under `names`."""
  values: dict[str, Any] = {}
  for ours, (theirs, default) in names.items():
    value = config.get(theirs, default)
    if ours in ("strides", "upsampling"):
      low, most = 2, 100
      value = list(value) if isinstance(value, tuple) else value
      good = isinstance(value, list) and 1 <= len(value) <= 16
      good = good and all(_whole(v, low, most) for v in value)
      good = good or (value is None and ours == "upsampling")
    else:
      if isinstance(value, list) and ours == "codebook_features" and len(value) == 1:
        value = value[0]
      low = 2 if ours == "codebook_size" else 1
      good = _whole(value, low, 10**7) or (value is None and ours == "dimension")
    if not good:
      # A list from a pickle may hold itself.
      said = repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
      raise CodecError(f"DAC configuration: {theirs} cannot be {said[:80]}")
    values[ours] = value
  strides, upsampling = values.pop("strides"), values.pop("upsampling")
  if upsampling not in (None, strides[::-1]):
    raise CodecError(f"DAC configuration: {names['upsampling'][0]} are not the encoder's reversed")
  width = values.pop("encoder_width")
  net = DacConfig(
    encoder_width=width,
    decoder_width=values.pop("decoder_width"),
    strides=tuple(strides),
    dimension=values.pop("dimension") or width * 2 ** len(strides),
  )
  rate, size = values["sample_rate"], values["codebook_size"]
  offered = bitrates(rate, math.prod(strides), min(1000, values["num_codebooks"]), size)
  return Dac(net=net, bitrates=offered, **values)


def _whole(value, low: int, most: int) -> bool:
  # A bool is an int to Python.
  return type(value) is int and low <= value <= most


def _hugging_face_names(num_strides: int) -> dict[str, str]:
  """From our layers' paths to the prefixes of their arrays' names."""
  names = {}
  for half in ("encoder", "decoder"):
    names[f"{half}/conv_in"] = f"{half}.conv1."
    for i in range(num_strides):
      block = f"{half}.block.{i}."
      for j in range(len(DILATIONS)):
        for k in (0, 1):
          unit, ours = f"{block}res_unit{j + 1}.", f"{half}/residual_{i}_{j}/"
          names[f"{ours}snake_{k}"] = f"{unit}snake{k + 1}."
          names[f"{ours}conv_{k}"] = f"{unit}conv{k + 1}."
      down = half == "encoder"
      names[f"{half}/snake_{i}" if down else f"{half}/up_{i}/snake"] = f"{block}snake1."
      names[f"{half}/down_{i}" if down else f"{half}/up_{i}/conv"] = (
        f"{block}conv1." if down else f"{block}conv_t1."
      )
    names[f"{half}/snake_out"] = f"{half}.snake1."
    names[f"{half}/conv_out"] = f"{half}.conv2."
  return names


def _original_names(num_strides: int) -> dict[str, str]:
  """As `_hugging_face_names`; here layers have numbers, and so have their activations."""
  names = {}
  for half, layers in (("encoder", "encoder.block."), ("decoder", "decoder.model.")):
    names[f"{half}/conv_in"] = f"{layers}0."
    # A decoder's block begins with its upsampling, an encoder's ends with its downsampling.
    down = half == "encoder"
    for i in range(num_strides):
      block = f"{layers}{i + 1}.block."
      for j in range(len(DILATIONS)):
        for k in (0, 1):
          unit, ours = f"{block}{j + 2 * (not down)}.block.", f"{half}/residual_{i}_{j}/"
          names[f"{ours}snake_{k}"] = f"{unit}{2 * k}."
          names[f"{ours}conv_{k}"] = f"{unit}{2 * k + 1}."
      names[f"{half}/snake_{i}" if down else f"{half}/up_{i}/snake"] = f"{block}{3 * down}."
      names[f"{half}/down_{i}" if down else f"{half}/up_{i}/conv"] = f"{block}{3 * down + 1}."
    names[f"{half}/snake_out"] = f"{layers}{num_strides + 1}."
    names[f"{half}/conv_out"] = f"{layers}{num_strides + 2}."
  return names


def _codec(module: Dac, tensors: Tensors, names: dict[str, str], name: str) -> Codec:
  layers = _Layers(tensors, names)
  params = {
    "encoder": _encoder(layers, module.net),
    "decoder": _decoder(layers, module.net),
    "quantizer": _quantizer(layers, module),
  }
  tensors.finish()
  prior = jnp.ones((module.num_codebooks, module.codebook_size), jnp.int32)
  return Codec(module=module, params=params, prior=prior, name=name)


def _encoder(layers: "_Layers", net: DacConfig) -> dict[str, Any]:
  width = net.encoder_width
  params = {"conv_in": layers.conv("encoder/conv_in", 1, width, 7)}
  for i, stride in enumerate(net.strides):
    params |= layers.residuals(f"encoder/residual_{i}", width)
    params[f"snake_{i}"] = layers.snake(f"encoder/snake_{i}", width)
    params[f"down_{i}"] = layers.conv(f"encoder/down_{i}", width, 2 * width, 2 * stride)
    width *= 2
  params["snake_out"] = layers.snake("encoder/snake_out", width)
  params["conv_out"] = layers.conv("encoder/conv_out", width, net.dimension, 3)
  return params


def _decoder(layers: "_Layers", net: DacConfig) -> dict[str, Any]:
  width = net.decoder_width
  params = {"conv_in": layers.conv("decoder/conv_in", net.dimension, width, 7)}
  for i, stride in enumerate(reversed(net.strides)):
    name = f"decoder/up_{i}"
    up = {"snake": layers.snake(f"{name}/snake", width)}
    width //= 2
    up["conv"] = layers.conv_transpose(f"{name}/conv", net.decoder_width // 2**i, width, 2 * stride)
    params[f"up_{i}"] = up
    params |= layers.residuals(f"decoder/residual_{i}", width)
  params["snake_out"] = layers.snake("decoder/snake_out", width)
  params["conv_out"] = layers.conv("decoder/conv_out", width, 1, 7)
  return params


def _quantizer(layers: "_Layers", module: Dac) -> dict[str, Any]:
  wide, narrow = module.net.dimension, module.codebook_features
  stages = []
  for q in range(module.num_codebooks):
    prefix = f"quantizer.quantizers.{q}."
    into = layers.conv_at(prefix + "in_proj.", wide, narrow, 1)
    out = layers.conv_at(prefix + "out_proj.", narrow, wide, 1)
    stages.append(
      {
        "in_kernel": into["kernel"][0],
        "in_bias": into["bias"],
        "codebooks": layers.tensors.take(
          prefix + "codebook.weight", (module.codebook_size, narrow)
        ),
        "out_kernel": out["kernel"][0],
        "out_bias": out["bias"],
      }
    )
  return {key: jnp.asarray(np.stack([stage[key] for stage in stages])) for key in stages[0]}


class _Layers:
  """Takes the arrays of our layers, each by its path and the widths that it should have."""

  def __init__(self, tensors: Tensors, names: dict[str, str]):
    self.tensors, self.names = tensors, names

  def snake(self, path: str, width: int) -> dict[str, Any]:
    alpha = self.tensors.take(self.names[path] + "alpha", (1, width, 1))
    return {"alpha": jnp.asarray(alpha[0, :, 0])}

  def conv(self, path: str, features_in: int, features_out: int, width: int) -> dict[str, Any]:
    return self.conv_at(self.names[path], features_in, features_out, width)

  def conv_at(self, prefix: str, features_in: int, features_out: int, width: int):
    kernel = folded_weight(self.tensors, prefix, (features_out, features_in, width))
    return self._with_bias(prefix, kernel.transpose(2, 1, 0))

  def conv_transpose(self, path: str, features_in: int, features_out: int, width: int):
    kernel = folded_weight(self.tensors, self.names[path], (features_in, features_out, width))
    return self._with_bias(self.names[path], kernel.transpose(2, 0, 1))

  def residuals(self, path: str, width: int) -> dict[str, Any]:
    """The units `path`_0, `path`_1, ..., under their own names."""
    units: dict[str, Any] = {}
    for j in range(len(DILATIONS)):
      unit = f"{path}_{j}"
      units[unit.split("/")[-1]] = {
        "snake_0": self.snake(f"{unit}/snake_0", width),
        "conv_0": self.conv(f"{unit}/conv_0", width, width, 7),
        "snake_1": self.snake(f"{unit}/snake_1", width),
        "conv_1": self.conv(f"{unit}/conv_1", width, width, 1),
      }
    return units

  def _with_bias(self, prefix: str, kernel) -> dict[str, Any]:
    bias = self.tensors.take(prefix + "bias", (kernel.shape[-1],))
    return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
