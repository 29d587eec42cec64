"""Codebooks that the train step writes, wherever a bottleneck keeps them."""

import math

import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.training.config import Train


def paths(config: Train) -> tuple[tuple[str, ...], ...]:
  """Where in the quantizer's parameters codebooks lie, in the order of its statistics.

  Raises:
    ValueError: if moving averages cannot train this bottleneck.
  """
  found = _quantizer(config, lambda quantizer: getattr(quantizer, "codebook_paths", ()))
  if not found:
    raise ValueError(
      f"moving averages cannot train the codebooks of {type(config.codec).__name__}: "
      "set quantization.decay=0 and give losses.codebook a weight"
    )
  return found


def _quantizer(config: Train, function):
  """`function` of the codec's bottleneck, which exists within `apply` alone."""
  return config.codec.apply({"params": {}}, method=lambda codec: function(codec.quantizer))


def read(config: Train, params):
  """The codebooks [Q, K, D], stages of all parts one after another."""
  return _joined([_at(params["quantizer"], path) for path in paths(config)])


def statistics(found: F.CodeStatistics) -> tuple:
  """A bottleneck's statistics, counts [Q, K] and sums [Q, K, D], groups of channels in turn."""
  counts, sums = found
  return counts.reshape(-1, counts.shape[-1]), _joined([sums])


def _joined(parts):
  """Of parts [..., K, D], those of groups [G, Q, K, D] group by group."""
  return jnp.concatenate([part.reshape(-1, *part.shape[-2:]) for part in parts])


def write(config: Train, params, codebooks):
  """`params` with these codebooks."""
  quantizer, start = params["quantizer"], 0
  for path in paths(config):
    shape = _at(quantizer, path).shape
    size = math.prod(shape[:-2])
    part = codebooks[start : start + size].reshape(shape)
    quantizer = _replaced(quantizer, path, part)
    start += size
  return params | {"quantizer": quantizer}


def inputs(config: Train, params, z, codes):
  """What each stage was given, [Q, N, D], for codes [..., Q] of latents z."""
  found = config.codec.apply(
    {"params": params}, z, codes, method=lambda codec, z, codes: codec.quantizer.inputs(z, codes)
  )
  return _joined([found])


def kmeans(config: Train, params, key, z):
  """`(codebooks, EmaState)` of k-means on latents z [..., D], stage by stage in each part."""
  nothing = jnp.full((*z.shape[:-1], len(config.codec.codebook_sizes)), -1, jnp.int32)
  given = inputs(config, params, z, nothing)
  # Asked of the class: what an instance lacks it looks for among parameters, and there are none.
  bands = _quantizer(config, lambda q: q.bands if hasattr(type(q), "bands") else None)
  found, start = [], 0
  shapes = []
  for path in paths(config):
    *groups, stages, size, _ = _at(params["quantizer"], path).shape
    shapes += [(stages, size)] * math.prod(groups)
  for (stages, size), part_key in zip(shapes, jax.random.split(key, len(shapes)), strict=True):
    found.append(F.residual_kmeans(part_key, given[start], stages, size, bands=bands))
    start += stages
  return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def _at(tree, path):
  for name in path:
    tree = tree[name]
  return tree


def _replaced(tree, path, value):
  name, *rest = path
  return tree | {name: _replaced(tree[name], rest, value) if rest else value}
