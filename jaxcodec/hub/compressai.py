"""Reads the picture codecs that CompressAI's `state_dict` describes.

Nothing but the names tells which codec it is, and nothing but the shapes how large: both are read
off. What CompressAI stores beside weights (bounds, masks, tables made for its own coder) is passed
over. Source: compressai/models of CompressAI 1.2.8.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcodec.errors import CodecError
from jaxcodec.hub.checkpoint import Tensors
from jaxcodec.image.autoregressive import JointAutoregressive
from jaxcodec.image.checkerboard import Checkerboard
from jaxcodec.image.elic import Elic
from jaxcodec.image.factorized import FactorizedPrior
from jaxcodec.image.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from jaxcodec.image.picture_codec import PictureCodec

_BUFFERS = re.compile(
  r"(^|\.)(pedestal|bound|target|mask|scale_table|scale_bound|_offset|_quantized_cdf|_cdf_length)$"
)
_BOTTLENECK = {"matrix": "matrices", "bias": "biases", "factor": "factors"}
# Where the codecs that are put together of latent codecs keep what others have at the top.
_NESTED = {
  "h_a": "latent_codec.hyper.h_a",
  "h_s": "latent_codec.hyper.h_s",
  "entropy_bottleneck": "latent_codec.hyper.entropy_bottleneck",
  "context_prediction": "latent_codec.y.context_prediction",
  "entropy_parameters": "latent_codec.y.entropy_parameters",
}


def is_compressai(names) -> bool:
  """Whether arrays of these names are a picture codec's of CompressAI."""
  return {"g_a.0.weight", "g_a.0.conv1.weight"} & {_renamed(str(name)) for name in names} != set()


def is_buffer(name: str) -> bool:
  """Whether an array of this name is no weight."""
  return _BUFFERS.search(name) is not None


def read_compressai(tensors: Tensors, names) -> tuple[PictureCodec, Any]:
  """`(module, params)` of the codec that `tensors` holds under `names`.

  Raises:
    CodecError: if it is none that is known, or a weight is missing, extra, of the wrong shape or
      not finite; the message names it.
  """
  names = set(names)
  module = _module(tensors, names)
  for name in names:
    if is_buffer(name):
      tensors.ignore(name)
  return module, read_params(module, tensors)


def read_params(module: PictureCodec, tensors: Tensors) -> Any:
  """Parameters of `module` from the arrays that CompressAI has of the same layers."""
  example = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
  nested = isinstance(module, Elic)
  if isinstance(module, Checkerboard):
    nested = module.transform == "residual"
  params = {
    path: jnp.asarray(take(tensors, _name(path[:-1], nested), path, leaf.shape))
    for path, leaf in flatten_dict(shapes).items()
  }
  tensors.finish()
  return unflatten_dict(params)


def renamed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Arrays under the names of CompressAI 1.2.8, from those of older files."""
  return {_renamed(str(name)): array for name, array in arrays.items()}


def _renamed(name: str) -> str:
  name = name.removeprefix("module.").replace(".downsample.", ".skip.")
  name = re.sub(
    r"entropy_bottleneck\._(matrices|biases|factors)\.", r"entropy_bottleneck.\1.", name
  )
  old = re.fullmatch(r"(.*entropy_bottleneck)\._(matrix|bias|factor)(\d)", name)
  return f"{old[1]}.{_BOTTLENECK[old[2]]}.{old[3]}" if old else name


def _module(tensors: Tensors, names: set[str]) -> PictureCodec:
  def shape(name: str) -> tuple[int, ...]:
    if name not in names:
      raise CodecError(f"{tensors.path} lacks the weight {name}")
    found = tensors.shape(name)
    if len(found) != 4:
      raise CodecError(f"weight {name} in {tensors.path} has shape {found}, four sizes needed")
    return found

  def has(start: str) -> bool:
    return any(name.startswith(start) for name in names)

  if "g_a.0.conv1.weight" in names:
    filters = shape("g_a.0.conv1.weight")[0]
    sizes = {"filters": filters, "latents": filters}
    if has("latent_codec.y.context_prediction."):
      return Checkerboard(**sizes, transform="residual")
    return JointAutoregressive(
      **sizes, transform="attention" if has("g_a.3.conv_a.") else "residual"
    )
  filters = shape("g_a.0.weight")[0]
  if has("latent_codec.y.latent_codec."):
    groups: list[int] = []
    while has(prefix := f"latent_codec.y.latent_codec.y{len(groups)}."):
      groups.append(shape(prefix + "context_prediction.weight")[1])
    return Elic(filters=filters, latents=shape("g_a.13.weight")[0], groups=tuple(groups))
  latents = shape("g_a.6.weight")[0]
  sizes = {"filters": filters, "latents": latents}
  if has("context_prediction."):
    return JointAutoregressive(**sizes)
  if not has("h_s."):
    return FactorizedPrior(**sizes, rectified=not has("g_a.1."))
  means = shape("h_s.4.weight")[0] == 2 * latents
  return MeanScaleHyperprior(**sizes) if means else ScaleHyperprior(**sizes)


def take(tensors: Tensors, name: str, path: tuple[str, ...], shape) -> np.ndarray:
  """The array of our parameter `path`, of our `shape`, of the layer that is theirs at `name`."""
  kind = path[-1]
  if "entropy_bottleneck" in path:
    if kind == "quantiles":
      return tensors.take(f"{name}.quantiles", (shape[0], 1, 3))[:, 0]
    part, number = kind.split("_")
    name = f"{name}.{_BOTTLENECK[part]}.{number}"
    return (
      tensors.take(name, shape) if part == "matrix" else tensors.take(name, (*shape, 1))[..., 0]
    )
  if kind == "gamma":
    return tensors.take(f"{name}.gamma", shape[::-1]).T
  if kind == "beta" or (kind == "bias" and path[-2] != "shuffled"):
    return tensors.take(f"{name}.{kind}", shape)
  if kind == "transposed_kernel":
    height, width, before, after = shape
    return tensors.take(f"{name}.weight", (before, after, height, width)).transpose(2, 3, 0, 1)
  if kind == "bias":
    return _shuffled(tensors.take(f"{name}.bias", shape))
  kernel = tensors.take(f"{name}.weight", (shape[3], shape[2], shape[0], shape[1]))
  kernel = kernel.transpose(2, 3, 1, 0)
  return _shuffled(kernel) if path[-2] == "shuffled" else kernel


def _shuffled(x: np.ndarray) -> np.ndarray:
  """Channels [C, 2, 2], as PyTorch shuffles them, to [2, 2, C]."""
  parts = x.reshape(*x.shape[:-1], -1, 2, 2)
  return np.moveaxis(parts, -3, -1).reshape(x.shape)


def _name(path: tuple[str, ...], nested: bool) -> str:
  """CompressAI's name of the layer that is ours at `path`."""
  parts: list[str] = []
  in_attention = ""
  for part in path:
    if part == "shuffled":
      parts.append("0")
    elif found := re.fullmatch(r"(trunk|gate)_(\d)", part):
      parts += ["conv_a" if found[1] == "trunk" else "conv_b", found[2], "conv"]
      in_attention = part
    elif part == "gate_out":
      parts += ["conv_b", "3"]
    elif in_attention:
      parts.append(str(2 * int(part.removeprefix("conv")) - 2))
    elif found := re.fullmatch(r"channel_context_(\d+)", part):
      parts.append(f"latent_codec.y.channel_context.y{int(found[1]) + 1}")
    elif found := re.fullmatch(r"(context_prediction|entropy_parameters)_(\d+)", part):
      parts.append(f"latent_codec.y.latent_codec.y{found[2]}.{found[1]}")
    elif nested and not parts and part in _NESTED:
      parts.append(_NESTED[part])
    else:  # A place in a list, or a name that is the same.
      parts.append(re.sub(r"^layers_", "", part))
  return ".".join(parts)
