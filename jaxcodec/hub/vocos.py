"""Reads checkpoints of WavTokenizer and Language-Codec as their authors publish them: the
configuration of a run as YAML, beside what PyTorch Lightning saved of it."""

import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcodec.audio.dac import bitrates
from jaxcodec.audio.language_codec import LanguageCodec
from jaxcodec.audio.wavtokenizer import WavTokenizer
from jaxcodec.codec import Codec
from jaxcodec.decoders.vocos import VocosConfig
from jaxcodec.errors import CodecError
from jaxcodec.hub.authors import read_weights
from jaxcodec.hub.checkpoint import Tensors, check_like
from jaxcodec.hub.seanet import Names, seanet_encoder
from jaxcodec.layers.seanet import SEANetConfig

_RATE = 24_000
_ENCODEC = "feature_extractor.encodec."
# Discriminators and losses lie beside these, and a SEANet decoder that is never used.
_WANTED = (f"{_ENCODEC}encoder.", f"{_ENCODEC}quantizer.", "backbone.", "head.")
# The condition that the adaptive norms are given, of the four that their tables have.
_CONDITION = 0


def find_config(directory: pathlib.Path) -> pathlib.Path | None:
  """The YAML file of a directory, if it has one."""
  return next(iter(sorted(directory.glob("*.yaml"))), None)


def load_vocos(directory: pathlib.Path, path: pathlib.Path, name: str) -> Codec:
  """A codec from a directory that holds the configuration `path` and a checkpoint.

  Raises:
    CodecError: if a value of the configuration is not supported, or a weight is missing, extra or
      of the wrong shape; the message names it.
  """
  settings = _settings(path)
  tensors = read_weights(directory, _WANTED)
  module = read_module(settings, tensors)
  reader = _Reader(tensors)
  names = Names(f"{_ENCODEC}encoder.model.", "conv.conv.")
  params = {
    "encoder": seanet_encoder(tensors, module.net, names),
    "decoder": _decoder(reader, module),
    "quantizer": {"codebooks": _codebooks(tensors, module)},
  }
  tensors.finish()
  prior = jnp.ones((module.num_codebooks, module.codebook_size), jnp.int32)
  return Codec(module=module, params=params, prior=prior, name=name)


def _settings(path: pathlib.Path) -> dict[str, dict[str, Any]]:
  """What the three parts of a model are built with."""
  import yaml  # Of flax.

  try:
    model = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"]
    parts = {part: dict(model[part]["init_args"]) for part in ("backbone", "head")}
    return parts | {"features": dict(model["feature_extractor"]["init_args"])}
  except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
    reason = " ".join(str(error).split())
    raise CodecError(f"{path} describes no WavTokenizer or Language-Codec: {reason}") from None


def read_module(
  settings: dict[str, dict[str, Any]], tensors: Tensors
) -> WavTokenizer | LanguageCodec:
  """The module that a configuration and the weights describe."""
  backbone, head, features = settings["backbone"], settings["head"], settings["features"]
  single = "vq_bins" in features
  needed = [("backbone", key) for key in ("input_channels", "dim", "intermediate_dim")]
  needed += [("backbone", "num_layers"), ("head", "n_fft"), ("head", "hop_length")]
  needed += [("features", key) for key in ("vq_bins", "num_quantizers")] if single else []
  for part, key in needed:
    check_like(settings[part].get(key), 1, f"configuration: {part} {key}")
  strides = features.get("dowmsamples", [8, 5, 4, 2])
  check_like(strides, [1], "configuration: features dowmsamples")
  hop = math.prod(strides)
  if head["hop_length"] != hop or head["n_fft"] % hop or head.get("padding", "same") != "same":
    raise CodecError(f"configuration: the head does not fit frames of {hop} samples")
  if single and features["num_quantizers"] != 1:
    raise CodecError("configuration: num_quantizers of WavTokenizer is 1, others do not add up")
  filters = f"{_ENCODEC}encoder.model.0.conv.conv.bias"
  if filters not in tensors:
    raise CodecError(f"{tensors.path} lacks the weight {filters}")
  net = SEANetConfig(
    num_filters=tensors.shape(filters)[0],
    strides=tuple(reversed(strides)),
    dimension=backbone["input_channels"],
    causal=False,
  )
  vocos = VocosConfig(
    width=backbone["dim"],
    hidden=backbone["intermediate_dim"],
    num_layers=backbone["num_layers"],
    window_length=head["n_fft"],
  )
  if single:
    size = features["vq_bins"]
    return WavTokenizer(
      net=net,
      vocos=vocos,
      sample_rate=_RATE,
      num_codebooks=1,
      codebook_size=size,
      bitrates=bitrates(_RATE, hop, 1, size),
    )
  books = sorted(name for name in _embeddings(tensors) if name in tensors)
  if len(books) < 3:
    raise CodecError(f"{tensors.path} lacks the weight {_embedding(len(books))}")
  size = tensors.shape(books[0])[0]
  return LanguageCodec(
    net=net,
    vocos=vocos,
    sample_rate=_RATE,
    num_codebooks=len(books),
    codebook_size=size,
    # Each band of channels needs its own.
    bitrates=bitrates(_RATE, hop, len(books), size)[2:],
  )


def _embedding(stage: int) -> str:
  return f"{_ENCODEC}quantizer.vq.layers.{stage}._codebook.embed"


def _embeddings(tensors: Tensors):
  stage = 0
  while _embedding(stage) in tensors:
    yield _embedding(stage)
    stage += 1


def _codebooks(tensors: Tensors, module: WavTokenizer | LanguageCodec):
  shape, books = (module.codebook_size, module.net.dimension), []
  for stage in range(module.num_codebooks):
    name = _embedding(stage)
    books.append(tensors.take(name, shape))
    for training in ("embed_avg", "cluster_size", "inited"):
      tensors.ignore(name.removesuffix("embed") + training)
  return jnp.asarray(np.stack(books))


def _decoder(reader: "_Reader", module: WavTokenizer | LanguageCodec) -> dict[str, Any]:
  vocos, latents, width = module.vocos, module.net.dimension, module.vocos.width
  params = {
    "conv_in": reader.conv("backbone.embed", latents, width, 7),
    "norm_in": reader.table("backbone.norm", width),
    "norm_out": reader.norm("backbone.final_layer_norm", width),
    "head": {"out": reader.dense("head.out", width, vocos.window_length + 2)},
  }
  reader.tensors.ignore("head.istft.window")
  for i in range(vocos.num_layers):
    name = f"backbone.convnext.{i}."
    kernel = reader.tensors.take(f"{name}dwconv.weight", (width, 1, 7))
    params[f"block_{i}"] = {
      "conv": {
        "kernel": jnp.asarray(kernel[:, 0].T),
        "bias": reader.vector(f"{name}dwconv.bias", width),
      },
      "norm": reader.table(f"{name}norm", width),
      "up": reader.dense(f"{name}pwconv1", width, vocos.hidden),
      "down": reader.dense(f"{name}pwconv2", vocos.hidden, width),
      "gamma": reader.vector(f"{name}gamma", width),
    }
  if isinstance(module, WavTokenizer):
    params["mixer"] = _mixer(reader, width)
  return params


def _mixer(reader: "_Reader", width: int) -> dict[str, Any]:
  params: dict[str, Any] = {"norm_out": {"norm": reader.norm("backbone.pos_net.5", width)}}
  for i, place in enumerate((0, 1, 3, 4)):
    name = f"backbone.pos_net.{place}."
    params[f"residual_{i}"] = {
      f"norm_{j}": {"norm": reader.norm(f"{name}norm{j + 1}", width)} for j in range(2)
    } | {f"conv_{j}": reader.conv(f"{name}conv{j + 1}", width, width, 3) for j in range(2)}
  name = "backbone.pos_net.2."
  params["attention"] = {"norm": {"norm": reader.norm(f"{name}norm", width)}}
  for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "proj_out")):
    layer = reader.conv(name + theirs, width, width, 1)
    params["attention"][ours] = layer | {"kernel": layer["kernel"][0]}
  return params


class _Reader:
  """Parameters of a layer by its name."""

  def __init__(self, tensors: Tensors):
    self.tensors = tensors

  def vector(self, name: str, features: int):
    return jnp.asarray(self.tensors.take(name, (features,)))

  def norm(self, name: str, features: int):
    return {
      "scale": self.vector(f"{name}.weight", features),
      "bias": self.vector(f"{name}.bias", features),
    }

  def table(self, name: str, features: int):
    """A norm by the row of the condition."""
    rows = {}
    for ours, theirs in (("scale", "scale"), ("bias", "shift")):
      key = f"{name}.{theirs}.weight"
      count = self.tensors.shape(key)[0] if key in self.tensors else 1
      rows[ours] = jnp.asarray(self.tensors.take(key, (count, features))[_CONDITION])
    return rows

  def dense(self, name: str, features_in: int, features_out: int):
    kernel = self.tensors.take(f"{name}.weight", (features_out, features_in))
    return {"kernel": jnp.asarray(kernel.T), "bias": self.vector(f"{name}.bias", features_out)}

  def conv(self, name: str, features_in: int, features_out: int, taps: int):
    kernel = self.tensors.take(f"{name}.weight", (features_out, features_in, taps))
    bias = self.vector(f"{name}.bias", features_out)
    return {"kernel": jnp.asarray(kernel.transpose(2, 1, 0)), "bias": bias}
