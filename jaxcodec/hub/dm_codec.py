"""Reads DM-Codec and SpeechTokenizer as their authors publish them: `config.json` beside a file of
`torch.save` with the model's state dict."""

import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcodec.audio.dac import bitrates
from jaxcodec.audio.dm_codec import DmCodec
from jaxcodec.codec import Codec
from jaxcodec.errors import CodecError
from jaxcodec.hub.authors import read_weights
from jaxcodec.hub.checkpoint import Tensors, check_like
from jaxcodec.hub.seanet import Names, seanet_decoder, seanet_encoder
from jaxcodec.layers.seanet import SEANetConfig

# As DM-Codec's config.json has them.
_DEFAULTS: dict[str, Any] = {
  "n_filters": 64,
  "strides": [8, 5, 4, 2],
  "dimension": 1024,
  "semantic_dimension": 768,
  "bidirectional": True,
  "dilation_base": 2,
  "residual_kernel_size": 3,
  "n_residual_layers": 1,
  "lstm_layers": 2,
  "codebook_size": 1024,
  "n_q": 8,
  "sample_rate": 16_000,
}


def is_dm_codec(config: dict[str, Any]) -> bool:
  return "semantic_dimension" in config and "n_q" in config


def load_dm_codec(directory: pathlib.Path, config: dict[str, Any], name: str) -> Codec:
  """A codec from a directory that holds `config` and the checkpoint.

  Raises:
    CodecError: if a value of the configuration is not supported, or a weight is missing, extra or
      of the wrong shape; the message names it.
  """
  module = read_module(config)
  tensors = read_weights(directory, ("encoder.", "quantizer.", "decoder.", "transform."))
  encoder, decoder = (
    Names(f"{half}.model.", "conv.conv.", "convtr.convtr.") for half in ("encoder", "decoder")
  )
  params = {
    "encoder": seanet_encoder(tensors, module.net, encoder, bidirectional=True),
    "decoder": seanet_decoder(tensors, module.net, decoder),
    "quantizer": {"codebooks": _codebooks(tensors, module)},
  }
  if module.teacher_features != module.net.dimension:
    shape = (module.teacher_features, module.net.dimension)
    kernel = tensors.take("transform.weight", shape)
    bias = tensors.take("transform.bias", shape[:1])
    params["transform"] = {"kernel": jnp.asarray(kernel.T), "bias": jnp.asarray(bias)}
  tensors.finish()
  prior = jnp.ones((module.num_codebooks, module.codebook_size), jnp.int32)
  return Codec(module=module, params=params, prior=prior, name=name)


def read_module(config: dict[str, Any]) -> DmCodec:
  """The module that a configuration describes."""
  values = {key: config.get(key, default) for key, default in _DEFAULTS.items()}
  for key, default in _DEFAULTS.items():
    check_like(values[key], default, f"DM-Codec configuration: {key}")
  if not values["bidirectional"]:
    raise CodecError("DM-Codec configuration: bidirectional False is not supported")
  if config.get("activation", "ELU") != "ELU":
    raise CodecError(
      f"DM-Codec configuration: activation {config['activation']!r} is not supported"
    )
  if values["codebook_size"] < 2 or values["n_filters"] % 2:
    raise CodecError("DM-Codec configuration: codebook_size or n_filters does not fit")
  net = SEANetConfig(
    num_filters=values["n_filters"],
    strides=tuple(reversed(values["strides"])),
    dimension=values["dimension"],
    residual_kernel_size=values["residual_kernel_size"],
    num_residual_layers=values["n_residual_layers"],
    dilation_base=values["dilation_base"],
    num_lstm_layers=values["lstm_layers"],
    causal=False,
  )
  count, size, rate = values["n_q"], values["codebook_size"], values["sample_rate"]
  return DmCodec(
    net=net,
    sample_rate=rate,
    num_codebooks=count,
    codebook_size=size,
    bitrates=bitrates(rate, math.prod(net.strides), count, size),
    teacher_features=values["semantic_dimension"],
  )


def _codebooks(tensors: Tensors, module: DmCodec):
  shape, books = (module.codebook_size, module.net.dimension), []
  for stage in range(module.num_codebooks):
    name = f"quantizer.vq.layers.{stage}._codebook."
    books.append(tensors.take(name + "embed", shape))
    for training in ("embed_avg", "cluster_size", "inited"):
      tensors.ignore(name + training)
  return jnp.asarray(np.stack(books))
