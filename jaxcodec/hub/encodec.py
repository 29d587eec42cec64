"""Reads EnCodec checkpoints in the Hugging Face layout (`transformers.EncodecModel`)."""

import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcodec.audio.encodec import Encodec
from jaxcodec.codec import Codec
from jaxcodec.errors import CodecError
from jaxcodec.hub.checkpoint import Tensors, check_like, read_config
from jaxcodec.hub.seanet import seanet_decoder, seanet_encoder
from jaxcodec.layers.conv import Norm
from jaxcodec.layers.seanet import SEANetConfig

# What `transformers.EncodecConfig` takes for a key that config.json leaves out.
_DEFAULTS: dict[str, Any] = {
  "target_bandwidths": [1.5, 3.0, 6.0, 12.0, 24.0],
  "sampling_rate": 24_000,
  "audio_channels": 1,
  "normalize": False,
  "chunk_length_s": None,
  "overlap": None,
  "hidden_size": 128,
  "num_filters": 32,
  "num_residual_layers": 1,
  "upsampling_ratios": [8, 5, 4, 2],
  "norm_type": "weight_norm",
  "kernel_size": 7,
  "last_kernel_size": 7,
  "residual_kernel_size": 3,
  "dilation_growth_rate": 2,
  "use_causal_conv": True,
  "pad_mode": "reflect",
  "compress": 2,
  "num_lstm_layers": 2,
  "trim_right_ratio": 1.0,
  "codebook_size": 1024,
  "codebook_dim": None,
  "use_conv_shortcut": True,
}


def load_encodec(directory: pathlib.Path, name: str) -> Codec:
  """A codec from `config.json` and `model.safetensors`, of either weight-norm parametrisation.

  Raises:
    CodecError: if a value of the configuration is not supported, or a weight is missing, extra or
      of the wrong shape; the message names it.
  """
  module = read_module(read_config(directory))
  tensors = Tensors(directory)
  net = module.net
  params = {
    "encoder": seanet_encoder(tensors, net),
    "decoder": seanet_decoder(tensors, net),
    "quantizer": {"codebooks": _codebooks(tensors, module)},
  }
  tensors.finish()
  prior = jnp.ones((module.num_codebooks, module.codebook_size), jnp.int32)
  return Codec(module=module, params=params, prior=prior, name=name)


def read_module(config: dict[str, Any]) -> Encodec:
  """The module that a Hugging Face configuration describes."""
  config = dict(_DEFAULTS) | {key: config[key] for key in _DEFAULTS if key in config}
  for key, value in _DEFAULTS.items():
    _check_type(key, config[key], value)
  for key, supported in (
    ("norm_type", ("weight_norm", "time_group_norm")),
    ("pad_mode", ("reflect",)),
    ("trim_right_ratio", (1.0,)),
    ("codebook_dim", (None, config["hidden_size"])),
    ("num_lstm_layers", (1, 2, 3, 4)),
  ):
    if config[key] not in supported:
      raise CodecError(f"EnCodec configuration: {key} {config[key]!r} is not supported")
  norm: Norm = "time_group" if config["norm_type"] == "time_group_norm" else None
  if norm and config["use_causal_conv"]:
    raise CodecError("EnCodec configuration: time_group_norm with causal convolutions")
  if config["normalize"] != (config["chunk_length_s"] is not None):
    raise CodecError("EnCodec configuration: normalize and chunk_length_s go together")
  net = SEANetConfig(
    channels=config["audio_channels"],
    num_filters=config["num_filters"],
    strides=tuple(reversed(config["upsampling_ratios"])),
    dimension=config["hidden_size"],
    kernel_size=config["kernel_size"],
    last_kernel_size=config["last_kernel_size"],
    residual_kernel_size=config["residual_kernel_size"],
    num_residual_layers=config["num_residual_layers"],
    dilation_base=config["dilation_growth_rate"],
    compress=config["compress"],
    num_lstm_layers=config["num_lstm_layers"],
    causal=config["use_causal_conv"],
    pad_mode="reflect",
    norm=norm,
    conv_shortcut=config["use_conv_shortcut"],
  )
  bitrates = tuple(sorted(round(1000 * kbps) for kbps in config["target_bandwidths"]))
  rate = config["sampling_rate"]
  frame_rate = math.ceil(rate / math.prod(net.strides))
  per_codebook = math.ceil(math.log2(config["codebook_size"])) * frame_rate
  num_codebooks = int(1000 * config["target_bandwidths"][-1] // per_codebook)
  if num_codebooks < 1:
    raise CodecError("EnCodec configuration: target_bandwidths pay for no codebook")
  length = stride = 0
  if config["chunk_length_s"] is not None:
    length = int(config["chunk_length_s"] * rate)
    stride = max(1, int((1.0 - (config["overlap"] or 0.0)) * length))
  return Encodec(
    net=net,
    sample_rate=rate,
    num_codebooks=num_codebooks,
    codebook_size=config["codebook_size"],
    bitrates=bitrates,
    segment_length=length,
    segment_stride=stride,
  )


def _check_type(key: str, value, default) -> None:
  # A bool is an int to Python.
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  what = f"EnCodec configuration: {key}"
  if key == "chunk_length_s":
    good = value is None or (number and 1e-3 <= value < 1e4)
  elif key == "overlap":  # More than half, and three segments would meet.
    good = value is None or (number and 0 <= value <= 0.5)
  elif key == "codebook_dim":
    good = value is None or (isinstance(value, int) and number)
  elif key == "target_bandwidths":
    good = isinstance(value, list) and 0 < len(value) < 100
    good = good and all(isinstance(v, (int, float)) and 0 < v < 1e4 for v in value)
  elif isinstance(default, (list, bool, int)):
    check_like(value, default, what)
    good = key != "codebook_size" or value > 1
  else:
    good = isinstance(value, type(default))
  if not good:
    raise CodecError(f"{what} cannot be {value!r}")


def _codebooks(tensors: Tensors, module: Encodec):
  shape = (module.codebook_size, module.net.dimension)
  books = []
  for i in range(module.num_codebooks):
    prefix = f"quantizer.layers.{i}.codebook."
    books.append(tensors.take(prefix + "embed", shape))
    for training in ("embed_avg", "cluster_size", "inited"):
      tensors.ignore(prefix + training)
  return jnp.asarray(np.stack(books))
