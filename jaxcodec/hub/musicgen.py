"""Reads MusicGen's language model as `transformers` saves it: with the models around it, as
`MusicgenForConditionalGeneration`, or alone, as `MusicgenForCausalLM`.

What describes a sound comes as features of a text encoder (T5), a model of its own that is not read
here; the codec is a `transformers.EncodecModel`, which `jaxcodec.load` opens.
"""

import pathlib
from typing import Any

import numpy as np

from jaxcodec.audio.code_lm import CodeLm, CodeLmConfig
from jaxcodec.errors import CodecError
from jaxcodec.hub.checkpoint import Tensors, check_like

# What `transformers.MusicgenDecoderConfig` takes for a key that config.json leaves out.
_DEFAULTS: dict[str, Any] = {
  "vocab_size": 2048,
  "num_hidden_layers": 24,
  "ffn_dim": 4096,
  "num_attention_heads": 16,
  "hidden_size": 1024,
  "num_codebooks": 4,
}
# Of these one value is known here.
_FIXED = {"activation_function": "gelu", "scale_embedding": False, "audio_channels": 1}
_WHOLE, _DECODER = "musicgen", "musicgen_decoder"
_KERNELS = {
  "query": "self_attn.q_proj",
  "key": "self_attn.k_proj",
  "value": "self_attn.v_proj",
  "out": "self_attn.out_proj",
  "text_query": "encoder_attn.q_proj",
  "text_key": "encoder_attn.k_proj",
  "text_value": "encoder_attn.v_proj",
  "text_out": "encoder_attn.out_proj",
}
_NORMS = {
  "attention_norm": "self_attn_layer_norm",
  "text_norm": "encoder_attn_layer_norm",
  "feed_forward_norm": "final_layer_norm",
}


def is_musicgen(config: dict[str, Any]) -> bool:
  return config.get("model_type") in (_WHOLE, _DECODER)


def load_musicgen(directory: pathlib.Path, config: dict[str, Any]) -> tuple[CodeLm, Any]:
  """The model and its weights from a directory of `config` and `model.safetensors`.

  Raises:
    CodecError: if a value of the configuration is not supported, or a weight is missing, extra or
      of the wrong shape; the message names it.
  """
  whole = config["model_type"] == _WHOLE
  module = read_module(config)
  tensors = Tensors(directory)
  prefix = "decoder." if whole else ""
  # Older files hold the sinusoids.
  tensors.ignore(f"{prefix}model.decoder.embed_positions.weights")
  params = _decoder(tensors, f"{prefix}model.decoder.", f"{prefix}lm_heads.", module)
  if whole:
    tensors.drop(("text_encoder.", "audio_encoder."))
    text, width = module.net.text_width, module.net.width
    if text is not None and text != width:
      params["text"] = _dense(tensors, "enc_to_dec_proj", text, width)
  tensors.finish()
  return module, params


def read_module(config: dict[str, Any]) -> CodeLm:
  """The module that a configuration describes."""
  decoder, text = config, None
  if config["model_type"] == _WHOLE:
    decoder, encoder = (_part(config, name) for name in ("decoder", "text_encoder"))
    # T5's name, and every other's.
    text = encoder.get("d_model", encoder.get("hidden_size"))
    check_like(text, 1, "MusicGen configuration: text_encoder.d_model")
  values = {key: decoder.get(key, default) for key, default in _DEFAULTS.items()}
  for key, default in _DEFAULTS.items():
    check_like(values[key], default, f"MusicGen configuration: {key}")
  for key, known in _FIXED.items():
    if decoder.get(key, known) != known:
      raise CodecError(f"MusicGen configuration: {key} cannot be {decoder[key]!r}")
  width, heads = values["hidden_size"], values["num_attention_heads"]
  if width % 2 or width % heads:
    raise CodecError(f"MusicGen configuration: hidden_size {width} does not fit {heads} heads")
  net = CodeLmConfig(
    width=width,
    num_heads=heads,
    hidden=values["ffn_dim"],
    num_layers=values["num_hidden_layers"],
    text_width=width if text is None else text,
  )
  return CodeLm(net=net, num_codebooks=values["num_codebooks"], codebook_size=values["vocab_size"])


def _part(config: dict[str, Any], name: str) -> dict[str, Any]:
  part = config.get(name)
  if not isinstance(part, dict):
    raise CodecError(f"MusicGen configuration: {name} cannot be {part!r}")
  return part


def _decoder(tensors: Tensors, prefix: str, heads: str, module: CodeLm) -> dict[str, Any]:
  net, size, books = module.net, module.codebook_size, range(module.num_codebooks)
  layers = [f"{prefix}layers.{i}." for i in range(net.num_layers)]

  def kernel(name: str, features_in: int, features_out: int):
    parts = [
      tensors.take(f"{layer}{name}.weight", (features_out, features_in)).T for layer in layers
    ]
    return {"kernel": np.stack(parts)}

  def norm(name: str):
    weight, bias = (
      np.stack([tensors.take(f"{layer}{name}.{part}", (net.width,)) for layer in layers])
      for part in ("weight", "bias")
    )
    return {"scale": weight, "bias": bias}

  stack = {ours: kernel(name, net.width, net.width) for ours, name in _KERNELS.items()}
  stack |= {
    "up": kernel("fc1", net.width, net.hidden),
    "down": kernel("fc2", net.hidden, net.width),
  }
  stack |= {ours: norm(name) for ours, name in _NORMS.items()}
  scale, bias = (
    tensors.take(f"{prefix}layer_norm.{part}", (net.width,)) for part in ("weight", "bias")
  )
  tables = [tensors.take(f"{prefix}embed_tokens.{q}.weight", (size + 1, net.width)) for q in books]
  outputs = [tensors.take(f"{heads}{q}.weight", (size, net.width)).T for q in books]
  return {
    "tables": np.stack(tables),
    "layers": stack,
    "norm": {"scale": scale, "bias": bias},
    "head": {"kernel": np.concatenate(outputs, axis=1)},
  }


def _dense(tensors: Tensors, name: str, features_in: int, features_out: int) -> dict[str, Any]:
  return {
    "kernel": tensors.take(f"{name}.weight", (features_out, features_in)).T,
    "bias": tensors.take(f"{name}.bias", (features_out,)),
  }
