"""The passes of MLIC++ and MLICv2 in a file, as `image.passes` has those of the other codecs.

Arrays are those of `functional.exact`, of one picture: y [h, w, M], references [h, w, 2 C].
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcodec.entropy import latents as coder
from jaxcodec.functional import exact, exact_attention as attention
from jaxcodec.functional.exact import UNIT
from jaxcodec.functional.exact_curves import gelu, half_tanh, sigmoid
from jaxcodec.functional.picture_attention import window_bias_index
from jaxcodec.image.mlic import Mlic
from jaxcodec.image.parts import Part, Passes, every_place, halves, layer, layers
from jaxcodec.layers.references import EPSILON, HEADS, WINDOW, known_in_windows

_NOT_READ = ("g_a", "g_s", "h_a", "entropy_bottleneck", "gains", "inverse_gains")


def networks(params: Any) -> dict[str, Any]:
  """The exact parts of what decides how a file is read, in dicts as the parameters."""
  return {name: _exact(own) for name, own in params.items() if name not in _NOT_READ}


def _exact(params: Any) -> Any:
  if not isinstance(params, Mapping):
    return exact.whole(params)
  if "layers_0" in params:
    return layers(params)
  if "scale" in params:
    return attention.norm(params["scale"], params["bias"], EPSILON)
  if "bias" in params:
    return layer(params)
  return {name: _exact(own) for name, own in params.items()}


def passes(module: Mlic, found: Mapping[str, Any], z: np.ndarray, shape) -> Passes:
  """y of h x w places, slice by slice: anchors, then the other places."""
  side, size = exact.run(found["h_s"], gelu, z), module.size
  side_means = halves(side)[1]
  anchor = np.add.outer(*map(np.arange, shape)) % 2 == 1
  y = np.zeros((*shape, module.latents))
  for i in range(module.slices):
    channels, before = slice(i * size, (i + 1) * size), y[..., : i * size]
    own = y[..., channels]  # What is written here is y's.
    known = _before(found, i, before)
    for name, there in (("anchor", anchor), ("nonanchor", ~anchor)):
      references = known if name == "anchor" else [*_beside(module, found, i, y, side), *known]
      seen = np.concatenate([*_weighed(found, name, i, references), side], axis=-1)
      places = every_place(shape, there)
      parameters = found[f"entropy_parameters_{name}_{i}"]
      scales, means = halves(exact.run(parameters, gelu, seen[places][None])[0])
      coded = scales >= np.rint(UNIT * np.float64(module.skip_below)) if module.skip_below else None
      part = Part(False, places, coder.normal_rows(scales), means, channels, coded=coded)
      own[places] = (yield part) * UNIT + means
      told = np.concatenate([side_means, before, own], axis=-1)
      own[places] += half_tanh(exact.run(found[f"lrp_{name}_{i}"], gelu, told))[places]
  return y


def _before(found: Mapping[str, Any], i: int, before: np.ndarray) -> list[np.ndarray]:
  references = []
  if f"global_inter_context_{i - 1}" in found:
    references.append(_inter(found[f"global_inter_context_{i - 1}"], i, before))
  if f"channel_context_{i - 1}" in found:
    references.append(exact.run(found[f"channel_context_{i - 1}"], gelu, before))
  return references


def _beside(module: Mlic, found, i: int, y: np.ndarray, side: np.ndarray) -> list[np.ndarray]:
  size, references = module.size, []
  x = y[..., i * size : (i + 1) * size]
  if f"local_context_{i}" in found:
    references.append(_local(found[f"local_context_{i}"], x, module.rotary))
  if f"global_intra_context_{i - 1}" in found:
    own, before = found[f"global_intra_context_{i - 1}"], y[..., (i - 1) * size : i * size]
    anchor = np.add.outer(*map(np.arange, x.shape[:2]))[..., None] % 2 == 1
    queries = _spread(own["queries"], np.where(anchor, 0, before))
    keys = _spread(own["keys"], np.where(anchor, before, 0))
    references.append(_from_anchors(own, queries, keys, x))
  if not i and "global_first_context" in found:
    own = found["global_first_context"]
    queries, keys = exact.apply(own["queries"], side), exact.apply(own["keys"], side)
    references.append(_from_anchors(own, queries, keys, x))
  return references


def _local(own: Mapping[str, Any], x: np.ndarray, rotary: bool) -> np.ndarray:
  height, width, _ = x.shape
  x = exact.apply(own["qkv_proj"], attention.normed(own["norm1"], x))
  windows = attention.neighbours(x, WINDOW)
  q, k, v = (
    part.reshape(*part.shape[:-1], -1, HEADS).swapaxes(-1, -2)
    for part in np.split(windows, 3, axis=-1)
  )
  bias: Any = 0.0
  if rotary:
    q, k = attention.turned(q, WINDOW), attention.turned(k, WINDOW)
  else:
    bias = np.moveaxis(own["relative_position_table"][window_bias_index(WINDOW)], -1, 0)
  known = known_in_windows(height, width).reshape(len(q), -1)
  y = attention.local_attention(q, k, v, bias, known)
  y = exact.apply(own["proj"], exact.apply(own["fusion"], y.reshape(height, width, -1)))
  hidden = exact.apply(own["mlp_fc1"], attention.normed(own["norm2"], y))
  return y + exact.apply(own["mlp_fc2"], gelu(hidden))


def _spread(parts, x: np.ndarray) -> np.ndarray:
  mixed, about = parts
  return exact.apply(about, exact.apply(mixed, x))


def _from_anchors(own: Mapping[str, Any], queries, keys, x: np.ndarray) -> np.ndarray:
  values, shape = _spread(own["values"], x), x.shape[:2]
  color = np.add.outer(*map(np.arange, shape)) % 2
  holds, asks = every_place(shape, color == 1), every_place(shape, color == 0)
  q, k, v = (
    part[at].reshape(len(at[0]), HEADS, -1)
    for part, at in ((queries, asks), (keys, holds), (values, holds))
  )
  y = np.zeros_like(x)
  y[asks] = attention.linear_attention(q, k, v).reshape(len(asks[0]), -1)
  y = exact.apply(own["merged"]["reprojection"], y)
  return y + exact.run(own["merged"]["mlp"], gelu, y)


def _inter(own: Mapping[str, Any], heads: int, before: np.ndarray) -> np.ndarray:
  parts = (_spread(own[name], before) for name in ("queries", "keys", "values"))
  q, k, v = (part.reshape(-1, heads, before.shape[-1] // heads) for part in parts)
  y = exact.apply(own["reprojection"], attention.linear_attention(q, k, v).reshape(before.shape))
  return exact.apply(own["skip"], y) + exact.run(own["mlp"], gelu, y)


def _weighed(found, name: str, i: int, references: list[np.ndarray]) -> list[np.ndarray]:
  own = found.get(f"weights_{name}_{i}")
  if own is None or not references:
    return references
  x = np.concatenate(references, axis=-1)
  hidden = gelu(exact.apply(own["down"], attention.mean(x)))
  return [np.rint(x * sigmoid(exact.apply(own["up"], hidden)) / UNIT)]
