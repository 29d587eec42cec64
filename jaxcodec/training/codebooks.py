"""Codebooks that the train step writes, wherever a bottleneck keeps them."""

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
  return jnp.concatenate([_at(params["quantizer"], path) for path in paths(config)])


def write(config: Train, params, codebooks):
  """`params` with these codebooks."""
  quantizer, start = params["quantizer"], 0
  for path in paths(config):
    size = _at(quantizer, path).shape[0]
    quantizer = _replaced(quantizer, path, codebooks[start : start + size])
    start += size
  return params | {"quantizer": quantizer}


def inputs(config: Train, params, z, codes):
  """What each stage was given, [Q, N, D], for codes [..., Q] of latents z."""
  return config.codec.apply(
    {"params": params}, z, codes, method=lambda codec, z, codes: codec.quantizer.inputs(z, codes)
  )


def kmeans(config: Train, params, key, z):
  """`(codebooks, EmaState)` of k-means on latents z [..., D], stage by stage in each part."""
  nothing = jnp.full((*z.shape[:-1], len(config.codec.codebook_sizes)), -1, jnp.int32)
  given = inputs(config, params, z, nothing)
  found, start = [], 0
  for path, part_key in zip(paths(config), jax.random.split(key, len(paths(config))), strict=True):
    stages, size, _ = _at(params["quantizer"], path).shape
    found.append(F.residual_kmeans(part_key, given[start], stages, size))
    start += stages
  return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def _at(tree, path):
  for name in path:
    tree = tree[name]
  return tree


def _replaced(tree, path, value):
  name, *rest = path
  return tree | {name: _replaced(tree[name], rest, value) if rest else value}
