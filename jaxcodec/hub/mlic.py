"""Reads the `state_dict` of MLIC++ as its authors publish it.

The sizes are read off the shapes. Source: MLIC++/models/mlicpp.py of JiangWeibeta/MLIC.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcodec.errors import CodecError
from jaxcodec.hub import compressai
from jaxcodec.hub.checkpoint import Tensors
from jaxcodec.image.mlic import Mlic

_FIRST = "g_a.analysis_transform.0.conv1.weight"
_LAST = "g_a.analysis_transform.6.weight"
_LISTS = {
  "g_a": "g_a.analysis_transform",
  "g_s": "g_s.synthesis_transform",
  "h_a": "h_a.reduction",
  "h_s": "h_s.increase",
}
# What stands after the number of a slice; those of the first three begin with the second slice.
_SLICED = {
  "channel_context": ".fushion",
  "global_inter_context": "",
  "global_intra_context": "",
  "local_context": "",
  "entropy_parameters_anchor": ".fusion",
  "entropy_parameters_nonanchor": ".fusion",
  "lrp_anchor": ".lrp_transform",
  "lrp_nonanchor": ".lrp_transform",
}


def is_mlic(names) -> bool:
  """Whether arrays of these names are MLIC++'s."""
  return _FIRST in {str(name).removeprefix("module.") for name in names}


def read_mlic(tensors: Tensors, names) -> tuple[Mlic, Any]:
  """`(module, params)` of the codec that `tensors` holds under `names`.

  Raises:
    CodecError: if a weight is missing, extra, of the wrong shape or not finite, or one of slices
      of other sizes than 32 channels, for which the code has other heads.
  """
  for name in names:
    if compressai.is_buffer(name) or name.endswith("relative_position_index"):
      tensors.ignore(name)
  if _LAST not in names:
    raise CodecError(f"{tensors.path} lacks the weight {_LAST}")
  latents, filters = tensors.shape(_LAST)[:2]
  slices = sum(
    re.fullmatch(r"lrp_anchor\.\d+\.lrp_transform\.0\.bias", n) is not None for n in names
  )
  if latents != 32 * slices:
    raise CodecError(f"{tensors.path} has {latents} latents in {slices} slices, not 32 in each")
  module = Mlic(filters=filters, latents=latents, slices=slices)
  example = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
  params = {
    path: jnp.asarray(_take(tensors, path, leaf.shape))
    for path, leaf in flatten_dict(shapes).items()
  }
  tensors.finish()
  return module, unflatten_dict(params)


def _take(tensors: Tensors, path: tuple[str, ...], shape) -> np.ndarray:
  """The array of our parameter `path`, of our `shape`."""
  name, kind = _name(path[:-1]), path[-1]
  if kind == "depthwise_kernel":
    rows, columns, channels = shape
    return tensors.take(f"{name}.weight", (channels, 1, rows, columns))[:, 0].transpose(1, 2, 0)
  if kind == "relative_position_table":
    return tensors.take(f"{name}.{kind}", shape)
  if kind == "scale":
    return tensors.take(f"{name}.weight", shape)
  if kind == "kernel" and path[-2] == "fusion":
    before = shape[0] // 25
    kernel = tensors.take(f"{name}.weight", (shape[1], before, 5, 5))
    return kernel.transpose(2, 3, 1, 0).reshape(shape)
  if kind == "kernel" and len(shape) == 2:
    return tensors.take(f"{name}.weight", shape[::-1]).T
  return compressai.take(tensors, name, path, shape)


def _name(path: tuple[str, ...]) -> str:
  """Their name of the layer that is ours at `path`."""
  system, number = re.fullmatch(r"(.*?)_?(\d*)", path[0]).groups()  # type: ignore[union-attr]
  name = _LISTS.get(path[0], path[0])
  if system in _SLICED:
    later = list(_SLICED).index(system) < 3
    name = f"{system}.{int(number) + later}{_SLICED[system]}"
  rest = [
    part.removeprefix("layers_").replace("shuffled", "0").replace("mlp_", "mlp.")
    for part in path[1:]
    if part != "merged"
  ]
  return ".".join([name, *rest])
