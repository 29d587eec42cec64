"""The diffusion network of latent diffusion's programs, and parameters by PyTorch's names."""

from typing import Any

import jax.numpy as jnp

from jaxcodec.decoders.latent_diffusion import LatentDiffusionConfig
from jaxcodec.errors import CodecError
from jaxcodec.hub.checkpoint import Tensors
from jaxcodec.layers.unet import UNetConfig


class Reader:
  """Parameters of layers whose names start with `prefix`."""

  def __init__(self, tensors: Tensors, prefix: str):
    self.tensors, self.prefix = tensors, prefix

  def take(self, name: str, shape: tuple[int, ...]):
    return self.tensors.take(self.prefix + name, shape)

  def ignore(self, names: tuple[str, ...]) -> None:
    """Passes over all arrays whose names start with one of `names`."""
    self.tensors.drop(tuple(self.prefix + name for name in names))

  def vector(self, name: str, features: int):
    return jnp.asarray(self.take(name, (features,)))

  def norm(self, name: str, features: int):
    return {
      "scale": self.vector(f"{name}.weight", features),
      "bias": self.vector(f"{name}.bias", features),
    }

  def dense(self, name: str, features_in: int, features_out: int, *, bias: bool = True):
    kernel = self.take(f"{name}.weight", (features_out, features_in))
    found = {"kernel": jnp.asarray(kernel.T)}
    return found | ({"bias": self.vector(f"{name}.bias", features_out)} if bias else {})

  def conv(self, name: str, features_in: int, features_out: int, size: int):
    """Of pictures."""
    kernel = self.take(f"{name}.weight", (features_out, features_in, size, size))
    kernel = jnp.asarray(kernel.transpose(2, 3, 1, 0))
    return {"kernel": kernel, "bias": self.vector(f"{name}.bias", features_out)}

  def pointwise(self, name: str, features_in: int, features_out: int):
    """A convolution of one tap as a dense layer."""
    found = self.conv(name, features_in, features_out, 1)
    return found | {"kernel": found["kernel"][0, 0]}

  def taps(self, name: str, features_in: int, features_out: int, size: int):
    """A convolution of signals."""
    kernel = self.take(f"{name}.weight", (features_out, features_in, size))
    kernel = jnp.asarray(kernel.transpose(2, 1, 0))
    return {"kernel": kernel, "bias": self.vector(f"{name}.bias", features_out)}


def context_weight(prefix: str) -> str:
  """The name of a matrix that the context goes through."""
  return f"{prefix}middle_block.2.transformer_blocks.0.attn2.to_k.weight"


def config_of(tensors: Tensors, prefix: str, head_width: int) -> UNetConfig:
  """The shape of the network that these weights are of."""

  def shape(name: str) -> tuple[int, ...] | None:
    name = f"{prefix}{name}"
    return tensors.shape(name) if name in tensors else None

  first = shape("input_blocks.0.0.weight")
  if first is None:
    raise CodecError(f"{tensors.path} lacks the weight {prefix}input_blocks.0.0.weight")
  # A level's blocks, then a layer that halves; the last level has none.
  widths: list[int] = []
  counts, attention, number = [0], set(), 1
  while True:
    block = shape(f"input_blocks.{number}.0.in_layers.2.weight")
    halves = shape(f"input_blocks.{number}.0.op.weight")
    if block is not None:
      counts[-1] += 1
      widths += [block[0]] if counts[-1] == 1 else []
      if shape(f"input_blocks.{number}.1.norm.weight") is not None:
        attention.add(len(counts) - 1)
    elif halves is not None:
      counts.append(0)
    else:
      break
    number += 1
  if len(set(counts)) != 1 or not counts[0]:
    raise CodecError(f"{tensors.path}: levels of {counts} blocks")
  return UNetConfig(
    channels=first[1],
    width=first[0],
    multipliers=tuple(width // first[0] for width in widths),
    num_blocks=counts[0],
    attention_levels=tuple(sorted(attention)),
    head_width=head_width,
  )


def unet(read: Reader, config: LatentDiffusionConfig) -> dict[str, Any]:
  """Parameters of `layers.unet.UNet`."""
  net = config.unet
  context = read.tensors.shape(context_weight(read.prefix))[1]
  wide = 4 * net.width
  time = {
    "up": read.dense("time_embed.0", net.width, wide),
    "out": read.dense("time_embed.2", wide, wide),
  }

  def block(name: str, features_in: int, features_out: int):
    found = {
      "norm_0": read.norm(f"{name}.in_layers.0", features_in),
      "conv_0": read.conv(f"{name}.in_layers.2", features_in, features_out, 3),
      "time": read.dense(f"{name}.emb_layers.1", wide, features_out),
      "norm_1": read.norm(f"{name}.out_layers.0", features_out),
      "conv_1": read.conv(f"{name}.out_layers.3", features_out, features_out, 3),
    }
    if features_in != features_out:
      found["skip"] = read.pointwise(f"{name}.skip_connection", features_in, features_out)
    return found

  def stage(name: str, features_in: int, features_out: int, level: int | None):
    found = {"block": block(f"{name}.0", features_in, features_out)}
    if level is None or level in net.attention_levels:
      found["self"] = _transformer(read, f"{name}.1", features_out, features_out)
      found["cross"] = _transformer(read, f"{name}.2", features_out, context)
    return found

  down: dict[str, Any] = {"conv_in": read.conv("input_blocks.0.0", net.channels, net.width, 3)}
  width, number, skips = net.width, 1, [net.width]
  for level, factor in enumerate(net.multipliers):
    for i in range(net.num_blocks):
      found = stage(f"input_blocks.{number}", width, factor * net.width, level)
      width, number = factor * net.width, number + 1
      down[f"block_{level}_{i}"] = found
      skips.append(width)
    if level < len(net.multipliers) - 1:
      down[f"down_{level}"] = read.conv(f"input_blocks.{number}.0.op", width, width, 3)
      number += 1
      skips.append(width)
  down["middle_0"] = stage("middle_block", width, width, None)
  down["middle_1"] = block("middle_block.3", width, width)
  up: dict[str, Any] = {}
  number = 0
  for level, factor in reversed(tuple(enumerate(net.multipliers))):
    for i in range(net.num_blocks + 1):
      name, last = f"output_blocks.{number}", i == net.num_blocks
      up[f"block_{level}_{i}"] = stage(name, width + skips.pop(), factor * net.width, level)
      width, number = factor * net.width, number + 1
      if level and last:
        place = 3 if level in net.attention_levels else 1
        up[f"up_{level}"] = {"conv": read.conv(f"{name}.{place}.conv", width, width, 3)}
  up["norm_out"] = read.norm("out.0", width)
  up["conv_out"] = read.conv("out.2", width, net.channels, 3)
  return {"time": time, "encoder": down, "decoder": up}


def _transformer(read: Reader, name: str, width: int, context: int) -> dict[str, Any]:
  inner = f"{name}.transformer_blocks.0"

  def attention(name: str, seen: int):
    names = {"query": ("to_q", width), "key": ("to_k", seen), "value": ("to_v", seen)}
    found = {
      ours: read.dense(f"{name}.{theirs}", size, width, bias=False)
      for ours, (theirs, size) in names.items()
    }
    return found | {"out": read.dense(f"{name}.to_out.0", width, width)}

  return {
    "norm": read.norm(f"{name}.norm", width),
    "in": read.pointwise(f"{name}.proj_in", width, width),
    "first_norm": read.norm(f"{inner}.norm1", width),
    "first": attention(f"{inner}.attn1", width),
    "second_norm": read.norm(f"{inner}.norm2", width),
    "second": attention(f"{inner}.attn2", context),
    "up_norm": read.norm(f"{inner}.norm3", width),
    "up": read.dense(f"{inner}.ff.net.0.proj", width, 8 * width),
    "down": read.dense(f"{inner}.ff.net.2", 4 * width, width),
    "out": read.pointwise(f"{name}.proj_out", width, width),
  }
