"""Reads streaming FastConformers of NVIDIA's NeMo: `.nemo` files with CTC, transducer or both.

A `.nemo` file is a tar, compressed or not, of `model_config.yaml`, `model_weights.ckpt` (what
`torch.save` writes) and a tokenizer. Source: nemo/core/connectors/save_restore_connector.py;
collections/asr/modules/conformer_encoder.py, rnnt.py, conv_asr.py.
"""

import dataclasses
import pathlib
import tarfile
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.audio.recognizer import Recognizer
from jaxcodec.audio.stateful_conformer import ConformerConfig, StatefulConformer
from jaxcodec.errors import CodecError
from jaxcodec.hub.checkpoint import Tensors
from jaxcodec.hub.torch_archive import read_torch

_LAYER = {
  "attention/query": "self_attn.linear_q",
  "attention/key": "self_attn.linear_k",
  "attention/value": "self_attn.linear_v",
  "attention/out": "self_attn.linear_out",
  "first_up": "feed_forward1.linear1",
  "first_down": "feed_forward1.linear2",
  "second_up": "feed_forward2.linear1",
  "second_down": "feed_forward2.linear2",
}
_NORMS = {
  "first_norm": "norm_feed_forward1",
  "attention_norm": "norm_self_att",
  "conv_norm": "norm_conv",
  "depthwise_norm": "conv.batch_norm",
  "second_norm": "norm_feed_forward2",
  "norm": "norm_out",
}
_CTC = ("ctc_decoder.", "decoder.")  # Of a hybrid, and of CTC alone.


def load_nemo(path: str | pathlib.Path) -> Recognizer:
  """The recognizer of a `.nemo` file.

  Raises:
    CodecError: if it is damaged, or is no causal FastConformer with layer norms, chunked attention
      and a CTC or transducer head.
  """
  path = pathlib.Path(path)
  config, state = _opened(path)
  try:
    encoder, bands = dict(config["encoder"]), int(config["preprocessor"]["features"])
    contexts = encoder["att_context_size"]
    if isinstance(contexts[0], int):
      contexts = [contexts]
    lefts, rights = (tuple(int(pair[i]) for pair in contexts) for i in (0, 1))
    style = {key: encoder.get(key) for key in ("att_context_style", "conv_norm_type")}
    words = _vocabulary(config)
  except (KeyError, TypeError, ValueError, IndexError) as error:
    raise CodecError(f"{path} does not describe a recognizer: {error!r}") from None
  wanted = {"att_context_style": "chunked_limited", "conv_norm_type": "layer_norm"}
  if style != wanted or encoder.get("causal_downsampling") is not True:
    raise CodecError(f"{path} is no streaming FastConformer with layer norms: {style}")
  module, params = read_conformer(state, path, bands=bands, lefts=lefts, rights=rights)
  if len(words) != module.config.labels:
    raise CodecError(f"{path} names {len(words)} labels for weights of {module.config.labels}")
  return Recognizer(module, params, words)


def _opened(path: pathlib.Path) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
  import yaml

  wanted = ("model_config.yaml", "model_weights.ckpt")
  with tempfile.TemporaryDirectory() as folder:
    try:
      with tarfile.open(path) as tar:
        for member in tar:
          name = pathlib.PurePath(member.name).name
          file = tar.extractfile(member) if name in wanted and member.isfile() else None
          if file is not None:
            (pathlib.Path(folder) / name).write_bytes(file.read())
      config = yaml.safe_load((pathlib.Path(folder) / wanted[0]).read_text(encoding="utf-8"))
    except (OSError, EOFError, ValueError, tarfile.TarError, yaml.YAMLError) as error:
      reason = str(error).splitlines()[0]
      raise CodecError(f"{path} is not a .nemo file that can be read: {reason}") from None
    state = read_torch(pathlib.Path(folder) / wanted[1])
  if not isinstance(config, dict) or not isinstance(state, dict):
    raise CodecError(f"{path} holds no configuration and weights")
  return config, state


def _vocabulary(config: dict[str, Any]) -> tuple[str, ...]:
  for section in (config.get("joint"), config.get("decoder")):
    if isinstance(section, dict) and section.get("vocabulary"):
      return tuple(map(str, section["vocabulary"]))
  raise ValueError("no vocabulary")


def read_conformer(
  state: Mapping[str, np.ndarray],
  path: pathlib.Path,
  *,
  bands: int,
  lefts: tuple[int, ...],
  rights: tuple[int, ...],
) -> tuple[StatefulConformer, Any]:
  """`(module, params)` of a NeMo model's weights by name; sizes are read off their shapes.

  Raises:
    CodecError: if a weight is missing, extra, of the wrong shape or not finite.
  """
  names = {name for name in state if not name.startswith(("preprocessor.", "spec_augment"))}
  tensors = Tensors(path, {name: np.asarray(state[name]) for name in names})
  try:
    config = _sizes(tensors, names, bands, lefts, rights)
  except (KeyError, ValueError) as error:
    raise CodecError(f"{path} holds no streaming FastConformer: {error}") from None
  params = _encoder(tensors, config)
  if config.ctc:
    prefix = next(p for p in _CTC if f"{p}decoder_layers.0.weight" in names)
    shape = config.labels + 1, config.width, 1
    kernel = tensors.take(f"{prefix}decoder_layers.0.weight", shape)[..., 0].T
    bias = tensors.take(f"{prefix}decoder_layers.0.bias", shape[:1])
    params["ctc_head"] = {"kernel": kernel, "bias": bias}
  if config.prediction:
    params |= _transducer(tensors, config)
  tensors.finish()
  return StatefulConformer(config), jax.tree.map(jnp.asarray, params)


def _sizes(tensors: Tensors, names, bands: int, lefts, rights) -> ConformerConfig:
  layer = "encoder.layers.0."
  joint = "joint.joint_net.2.bias"
  head = next(
    (f"{p}decoder_layers.0.bias" for p in _CTC if f"{p}decoder_layers.0.bias" in names), ""
  )
  if not head and joint not in names:
    raise ValueError("neither a CTC head nor a joint")
  config = ConformerConfig(
    labels=tensors.shape(head or joint)[0] - 1,
    bands=bands,
    channels=tensors.shape("encoder.pre_encode.conv.0.bias")[0],
    width=tensors.shape("encoder.pre_encode.out.bias")[0],
    num_heads=tensors.shape(f"{layer}self_attn.pos_bias_u")[0],
    hidden=tensors.shape(f"{layer}feed_forward1.linear1.bias")[0],
    num_layers=len({name.split(".")[2] for name in names if name.startswith("encoder.layers.")}),
    kernel=tensors.shape(f"{layer}conv.depthwise_conv.weight")[2],
    lefts=lefts,
    rights=rights,
    ctc=bool(head),
    prediction=tensors.shape("joint.pred.bias")[0] if joint in names else 0,
  )
  if not head:
    return dataclasses.replace(config, ctc_weight=0.0)
  return config


def _dense(tensors: Tensors, name: str, inputs: int, outputs: int, use_bias: bool = True):
  kernel = {"kernel": tensors.take(f"{name}.weight", (outputs, inputs)).T}
  return kernel | ({"bias": tensors.take(f"{name}.bias", (outputs,))} if use_bias else {})


def _encoder(tensors: Tensors, config: ConformerConfig) -> dict[str, Any]:
  c, conv = config, "encoder.pre_encode.conv."
  bands = c.bands
  for _ in range(3):
    bands = bands // 2 + 1
  first = tensors.take(f"{conv}0.weight", (c.channels, 1, 3, 3)).transpose(2, 3, 1, 0)
  subsampling: dict[str, Any] = {
    "conv_0": {"kernel": first, "bias": tensors.take(f"{conv}0.bias", (c.channels,))},
    "out": _dense(tensors, "encoder.pre_encode.out", c.channels * bands, c.width),
  }
  for i, at in ((1, 2), (2, 5)):
    kernel = tensors.take(f"{conv}{at}.weight", (c.channels, 1, 3, 3))
    subsampling[f"depthwise_{i}"] = kernel[:, 0].transpose(1, 2, 0)
    subsampling[f"depthwise_bias_{i}"] = tensors.take(f"{conv}{at}.bias", (c.channels,))
    kernel = tensors.take(f"{conv}{at + 1}.weight", (c.channels, c.channels, 1, 1))[..., 0, 0].T
    bias = tensors.take(f"{conv}{at + 1}.bias", (c.channels,))
    subsampling[f"pointwise_{i}"] = {"kernel": kernel, "bias": bias}
  layers = [_layer(tensors, config, f"encoder.layers.{i}.") for i in range(c.num_layers)]
  return {
    "subsampling": subsampling,
    "layers": jax.tree.map(lambda *leaves: np.stack(leaves), *layers),
  }


def _layer(tensors: Tensors, config: ConformerConfig, prefix: str) -> dict[str, Any]:
  width, hidden = config.width, config.hidden
  params: dict[str, Any] = {"attention": {}}
  for ours, theirs in _LAYER.items():
    up, down = ours.endswith("_up"), ours.endswith("_down")
    sizes = (hidden if down else width), (hidden if up else width)
    found = _dense(tensors, prefix + theirs, *sizes)
    if ours.startswith("attention/"):
      params["attention"][ours.split("/")[1]] = found
    else:
      params[ours] = found
  position = _dense(tensors, f"{prefix}self_attn.linear_pos", width, width, use_bias=False)
  heads = config.num_heads, width // config.num_heads
  params["attention"] |= {"position": position} | {
    f"bias_{x}": tensors.take(f"{prefix}self_attn.pos_bias_{x}", heads) for x in "uv"
  }
  for ours, theirs in _NORMS.items():
    scale, bias = (tensors.take(f"{prefix}{theirs}.{x}", (width,)) for x in ("weight", "bias"))
    params[ours] = {"scale": scale, "bias": bias}
  for ours, theirs, outputs in (("conv_in", "1", 2 * width), ("conv_out", "2", width)):
    name = f"{prefix}conv.pointwise_conv{theirs}"
    kernel = tensors.take(f"{name}.weight", (outputs, width, 1))[..., 0].T
    params[ours] = {"kernel": kernel, "bias": tensors.take(f"{name}.bias", (outputs,))}
  name = f"{prefix}conv.depthwise_conv"
  params["depthwise"] = tensors.take(f"{name}.weight", (width, 1, config.kernel))[:, 0].T
  return params | {"depthwise_bias": tensors.take(f"{name}.bias", (width,))}


def _transducer(tensors: Tensors, config: ConformerConfig) -> dict[str, Any]:
  size, labels = config.prediction, config.labels
  lstm = "decoder.prediction.dec_rnn.lstm."
  kernels = (tensors.take(f"{lstm}weight_{x}_l0", (4 * size, size)).T for x in ("ih", "hh"))
  biases = (tensors.take(f"{lstm}bias_{x}_l0", (4 * size,)) for x in ("ih", "hh"))
  input_kernel, recurrent_kernel = kernels
  return {
    # The last row, the blank's, is zeros there: it pads.
    "embedding": tensors.take("decoder.prediction.embed.weight", (labels + 1, size))[:-1],
    "input_kernel": input_kernel,
    "recurrent_kernel": recurrent_kernel,
    "lstm_bias": sum(biases),
    "joint_encoder": _dense(tensors, "joint.enc", config.width, size),
    "joint_prediction": _dense(tensors, "joint.pred", size, size),
    "joint_out": _dense(tensors, "joint.joint_net.2", size, labels + 1),
  }
