"""Reads LMUFormer's checkpoints as its authors publish them: a state dict by `torch.save`, plain or
spiking. All sizes follow from the weights; a memory is as long as its stored impulse response."""

import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcodec.audio.classifier import Classifier
from jaxcodec.audio.lmuformer import LmuConfig, LmuFormer
from jaxcodec.errors import CodecError
from jaxcodec.hub.checkpoint import Tensors
from jaxcodec.hub.torch_archive import read_torch

_FIXED = ("A", "B", "H", "fft_H")
_PARALLEL = "module."  # What DataParallel puts before every name.


def load_lmuformer(path: pathlib.Path) -> Classifier:
  """A classifier, its classes named by their numbers.

  Raises:
    CodecError: if the file is damaged or another model's, or a weight is missing, extra or of the
      wrong shape; the message names it.
  """
  content = read_torch(path)
  if not isinstance(content, dict):
    raise CodecError(f"{path} holds no state dict")
  arrays = {
    str(name).removeprefix(_PARALLEL): array
    for name, array in content.items()
    if isinstance(array, np.ndarray)
  }
  tensors = Tensors(path, arrays)
  config = read_config(tensors)
  reader = _Reader(tensors)
  params = (_spiking if config.spiking else _plain)(reader, config)
  params["head"] = reader.dense("head", config.width, config.classes)
  for i in range(config.num_layers):
    for name in _FIXED:  # They follow from the sizes.
      tensors.ignore(f"block.{i}.attn.lmu.{name}")
  tensors.finish()
  names = tuple(map(str, range(config.classes)))
  return Classifier(LmuFormer(config), params, names)


def read_config(tensors: Tensors) -> LmuConfig:
  """The network that the weights' shapes describe."""
  spiking = "patch_embed.proj_conv.weight" in tensors
  first = "patch_embed.proj_conv.weight" if spiking else "patch_embed.conv_layers.0.0.weight"
  response = "block.0.attn.lmu.H"
  width, bands, _ = _shape(tensors, first, 3)
  memory, theta = _shape(tensors, response, 2)
  layers = 0
  while f"block.{layers}.attn.lmu.W_u.weight" in tensors:
    layers += 1
  return LmuConfig(
    classes=_shape(tensors, "head.weight", 2)[0],
    bands=bands,
    width=width,
    memory=memory,
    theta=theta,
    num_layers=layers,
    hidden=_shape(tensors, "block.0.mlp.fc1_conv.weight", 3)[0],
    spiking=spiking,
  )


def _shape(tensors: Tensors, name: str, axes: int) -> tuple[int, ...]:
  if name not in tensors or len(tensors.shape(name)) != axes:
    raise CodecError(f"{tensors.path} lacks the weight {name}")
  return tensors.shape(name)


class _Reader:
  """Parameters of a layer by its name."""

  def __init__(self, tensors: Tensors):
    self.tensors = tensors

  def conv(self, name: str, features_in: int, features_out: int):
    kernel = self.tensors.take(f"{name}.weight", (features_out, features_in, 3))
    return {"kernel": jnp.asarray(kernel.transpose(2, 1, 0))}

  def dense(self, name: str, features_in: int, features_out: int, *, conv: bool = False):
    shape = (features_out, features_in, 1) if conv else (features_out, features_in)
    kernel = self.tensors.take(f"{name}.weight", shape).reshape(features_out, features_in)
    bias = self.tensors.take(f"{name}.bias", (features_out,))
    return {"kernel": jnp.asarray(kernel.T), "bias": jnp.asarray(bias)}

  def norm(self, name: str, features: int):
    self.tensors.ignore(f"{name}.num_batches_tracked")
    parts = (
      ("scale", "weight"),
      ("bias", "bias"),
      ("mean", "running_mean"),
      ("variance", "running_var"),
    )
    return {
      ours: jnp.asarray(self.tensors.take(f"{name}.{theirs}", (features,)))
      for ours, theirs in parts
    }


def _plain(reader: _Reader, config: LmuConfig) -> dict[str, Any]:
  width, params = config.width, {}
  for i in range(4):
    name = f"patch_embed.conv_layers.{i}."
    params[f"conv_{i}"] = reader.conv(f"{name}0", width if i else config.bands, width)
    params[f"norm_{i}"] = reader.norm(f"{name}3", width)
  params["conv_4"] = reader.conv("patch_embed.rpe_conv", width, width)
  for i in range(config.num_layers):
    block = _block(reader, config, i)
    block["up_norm"] = reader.norm(f"block.{i}.mlp.fc1_bn", config.hidden)
    block["down_norm"] = reader.norm(f"block.{i}.mlp.fc2_bn", width)
    params |= {f"block_{i}_{name}": layer for name, layer in block.items()}
  return params


def _spiking(reader: _Reader, config: LmuConfig) -> dict[str, Any]:
  width, params = config.width, {}
  for i in range(4):
    name = f"patch_embed.proj_%s{i or ''}"
    params[f"conv_{i}"] = reader.conv(name % "conv", width if i else config.bands, width)
    params[f"conv_{i + 1}_norm"] = reader.norm(name % "bn", width)
  params["conv_4"] = reader.conv("patch_embed.rpe_conv", width, width)
  for i in range(config.num_layers):
    block, attn, mlp = _block(reader, config, i), f"block.{i}.attn.", f"block.{i}.mlp."
    block["input_norm"] = reader.norm(f"{attn}prev_bn", width)
    block["memory_input_norm"] = reader.norm(f"{attn}lmu.bn_u", 1)
    block["state_norm"] = reader.norm(f"{attn}lmu.bn_m", config.memory)
    block["hidden_norm"] = reader.norm(f"{attn}lmu.bn_h", width)
    block["up_norm"] = reader.norm(f"{mlp}fc1_bn", width)
    block["down_norm"] = reader.norm(f"{mlp}fc2_bn", config.hidden)
    params |= {f"block_{i}_{name}": layer for name, layer in block.items()}
  return params | {"head_norm": reader.norm("head_bn", width)}


def _block(reader: _Reader, config: LmuConfig, index: int) -> dict[str, Any]:
  """What both networks have."""
  width, attn, mlp = config.width, f"block.{index}.attn.", f"block.{index}.mlp."
  return {
    "input": reader.dense(f"{attn}lmu.W_u", width, 1),
    "hidden": reader.dense(f"{attn}lmu.W_h", config.memory + width, width),
    "out": reader.dense(f"{attn}proj_conv", width, width, conv=True),
    "out_norm": reader.norm(f"{attn}proj_bn", width),
    "up": reader.dense(f"{mlp}fc1_conv", width, config.hidden, conv=True),
    "down": reader.dense(f"{mlp}fc2_conv", config.hidden, width, conv=True),
  }
