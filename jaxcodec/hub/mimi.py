"""Reads Mimi checkpoints in the Hugging Face layout (`transformers.MimiModel`)."""

import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcodec.audio.mimi import Mimi, MimiConfig
from jaxcodec.codec import Codec
from jaxcodec.errors import CodecError
from jaxcodec.hub.checkpoint import Tensors, check_like, read_config
from jaxcodec.hub.seanet import seanet_decoder, seanet_encoder
from jaxcodec.layers.seanet import SEANetConfig

# What `transformers.MimiConfig` takes for a key that config.json leaves out.
_DEFAULTS: dict[str, Any] = {
  "sampling_rate": 24_000,
  "audio_channels": 1,
  "hidden_size": 512,
  "num_filters": 64,
  "num_residual_layers": 1,
  "upsampling_ratios": [8, 6, 5, 4],
  "kernel_size": 7,
  "last_kernel_size": 3,
  "residual_kernel_size": 3,
  "dilation_growth_rate": 2,
  "compress": 2,
  "codebook_size": 2048,
  "codebook_dim": 256,
  "num_quantizers": 32,
  "use_conv_shortcut": False,
  "num_hidden_layers": 8,
  "intermediate_size": 2048,
  "num_attention_heads": 8,
  "sliding_window": 250,
}
# Mimi is the only published codec of this layout; what it leaves alone has one value here.
_FIXED: dict[str, Any] = {
  "use_causal_conv": True,
  "pad_mode": "constant",
  "trim_right_ratio": 1.0,
  "num_semantic_quantizers": 1,
  "hidden_act": "gelu",
  "norm_eps": 1e-5,
  "attention_bias": False,
}


def load_mimi(directory: pathlib.Path, name: str) -> Codec:
  """A codec from `config.json` and `model.safetensors`.

  Raises:
    CodecError: if a value of the configuration is not supported, or a weight is missing, extra or
      of the wrong shape; the message names it.
  """
  module = read_module(read_config(directory))
  tensors, net = Tensors(directory), module.config.net
  width, stride = net.dimension, module.config.stride
  down = tensors.take("downsample.conv.weight", (width, width, 2 * stride))
  up = tensors.take("upsample.conv.weight", (width, 1, 2 * stride))
  params = {
    "encoder": {
      "seanet": seanet_encoder(tensors, net),
      "transformer": _transformer(tensors, "encoder_transformer", module.config),
      "down": {"kernel": jnp.asarray(down.transpose(2, 1, 0))},
    },
    "decoder": {
      "seanet": seanet_decoder(tensors, net),
      "transformer": _transformer(tensors, "decoder_transformer", module.config),
      "up": {"kernel": jnp.asarray(up[:, 0].T)},
    },
    "quantizer": _quantizer(tensors, module),
  }
  tensors.finish()
  prior = jnp.ones((module.num_codebooks, module.codebook_size), jnp.int32)
  return Codec(module=module, params=params, prior=prior, name=name)


def read_module(config: dict[str, Any]) -> Mimi:
  """The module that a Hugging Face configuration describes."""
  given = config
  config = dict(_DEFAULTS) | {
    key: given[key] for key in _DEFAULTS if given.get(key, None) is not None
  }
  for key, value in _DEFAULTS.items():
    check_like(config[key], value, f"Mimi configuration: {key}")
  width, heads = config["hidden_size"], config["num_attention_heads"]
  rope = given.get("rope_parameters") or {}
  base = given.get("rope_theta", rope.get("rope_theta", 10_000.0))
  fixed = _FIXED | {
    "upsample_groups": width,
    "vector_quantization_hidden_dimension": config["codebook_dim"],
    "num_key_value_heads": heads,
    "head_dim": width // heads,
  }
  for key, value in fixed.items():
    if given.get(key, value) not in (value, None):
      raise CodecError(f"Mimi configuration: {key} {given[key]!r} is not supported")
  if width % (2 * heads) or rope.get("rope_type", "default") != "default":
    raise CodecError("Mimi configuration: its attention is not supported")
  if config["codebook_size"] < 2:
    raise CodecError("Mimi configuration: codebook_size must be 2 or more")
  if config["num_quantizers"] < 2 or not isinstance(base, (int, float)) or not base > 1:
    raise CodecError("Mimi configuration: num_quantizers or rope_theta is out of range")
  net = SEANetConfig(
    channels=config["audio_channels"],
    num_filters=config["num_filters"],
    strides=tuple(reversed(config["upsampling_ratios"])),
    dimension=width,
    kernel_size=config["kernel_size"],
    last_kernel_size=config["last_kernel_size"],
    residual_kernel_size=config["residual_kernel_size"],
    num_residual_layers=config["num_residual_layers"],
    dilation_base=config["dilation_growth_rate"],
    compress=config["compress"],
    num_lstm_layers=0,
    pad_mode="zero",
    conv_shortcut=config["use_conv_shortcut"],
  )
  hop, rate = 2 * math.prod(net.strides), config["sampling_rate"]
  frame_rate = given.get("frame_rate") or given.get("_frame_rate") or rate / hop
  if not isinstance(frame_rate, (int, float)) or abs(frame_rate * hop - rate) > 1:
    raise CodecError(f"Mimi configuration: frame_rate {frame_rate!r} is not supported")
  bits = math.log2(config["codebook_size"]) * frame_rate
  return Mimi(
    sample_rate=rate,
    bitrates=tuple(round(bits * (i + 1)) for i in range(config["num_quantizers"])),
    config=MimiConfig(
      net=net,
      num_layers=config["num_hidden_layers"],
      num_heads=heads,
      hidden=config["intermediate_size"],
      window=config["sliding_window"],
      base=float(base),
    ),
    num_codebooks=config["num_quantizers"],
    codebook_size=config["codebook_size"],
    codebook_features=config["codebook_dim"],
  )


def _transformer(tensors: Tensors, half: str, config: MimiConfig) -> dict[str, Any]:
  width, hidden = config.net.dimension, config.hidden
  params = {}
  for i in range(config.num_layers):
    prefix = f"{half}.layers.{i}."

    def dense(names: tuple[str, ...], size_in: int, size_out: int, prefix=prefix):
      shape = (size_out, size_in)
      parts = [tensors.take(f"{prefix}{name}.weight", shape) for name in names]
      return {"kernel": jnp.asarray(np.concatenate(parts).T)}

    def vector(name: str, prefix=prefix):
      return jnp.asarray(tensors.take(prefix + name, (width,)))

    projections = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    params[f"layer_{i}"] = {
      "attention_norm": {
        "scale": vector("input_layernorm.weight"),
        "bias": vector("input_layernorm.bias"),
      },
      "qkv": dense(projections, width, width),
      "out": dense(("self_attn.o_proj",), width, width),
      "attention_scale": vector("self_attn_layer_scale.scale"),
      "feed_forward_norm": {
        "scale": vector("post_attention_layernorm.weight"),
        "bias": vector("post_attention_layernorm.bias"),
      },
      "up": dense(("mlp.fc1",), width, hidden),
      "down": dense(("mlp.fc2",), hidden, width),
      "feed_forward_scale": vector("mlp_layer_scale.scale"),
    }
  return params


def _quantizer(tensors: Tensors, module: Mimi) -> dict[str, Any]:
  width, features = module.config.net.dimension, module.codebook_features
  params: dict[str, Any] = {}
  for part, count in (("semantic", 1), ("acoustic", module.num_codebooks - 1)):
    prefix = f"quantizer.{part}_residual_vector_quantizer."
    for ours, theirs, shape in (
      ("in", "input_proj", (features, width, 1)),
      ("out", "output_proj", (width, features, 1)),
    ):
      kernel = tensors.take(f"{prefix}{theirs}.weight", shape)
      params[f"{part}_{ours}"] = {"kernel": jnp.asarray(kernel[..., 0].T)}
    books = [_codebook(tensors, f"{prefix}layers.{i}.codebook.", module) for i in range(count)]
    params[part] = {"codebooks": jnp.asarray(np.stack(books))}
  return params


def _codebook(tensors: Tensors, prefix: str, module: Mimi) -> np.ndarray:
  """Stored as the sum of the vectors that chose an entry, and how many these were."""
  total = tensors.take(prefix + "embed_sum", (module.codebook_size, module.codebook_features))
  usage = tensors.take(prefix + "cluster_usage", (module.codebook_size,))
  tensors.ignore(prefix + "initialized")
  return total / np.maximum(usage, np.float32(1e-5))[:, None]
