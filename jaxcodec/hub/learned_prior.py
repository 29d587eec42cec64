"""A codec's learned prior in its directory: `prior.json` with its sizes, `prior.safetensors`."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save as serialize

from jaxcodec import atomic
from jaxcodec.entropy import prior_model
from jaxcodec.entropy.learned import LearnedPrior
from jaxcodec.entropy.prior_model import PriorConfig
from jaxcodec.errors import CodecError
from jaxcodec.hub.checkpoint import Tensors

_VERSION = 1


def is_there(directory: pathlib.Path) -> bool:
  return (directory / "prior.json").is_file()


def prior_of(config: PriorConfig, params: Any, codebooks) -> LearnedPrior:
  """The prior of real parameters, as training has them, for a codec's codebooks [Q, K, C]."""
  integers = jax.tree.map(np.asarray, prior_model.quantize(params))
  params = jax.tree.map(lambda x, kind: x.astype(kind), integers, prior_model.dtypes(config))
  return LearnedPrior(config=config, params=params, vectors=_vectors(codebooks))


def save_prior(prior: LearnedPrior, directory: pathlib.Path) -> None:
  """Writes the prior beside its codec; the code vectors are the codec's and not stored again."""
  arrays = {name: np.ascontiguousarray(leaf) for name, leaf in _named(prior.params).items()}
  atomic.write(directory / "prior.safetensors", serialize(arrays))
  config = {"version": _VERSION, "sizes": dataclasses.asdict(prior.config)}
  text = json.dumps(config, indent=2) + "\n"
  atomic.write(directory / "prior.json", text.encode())


def load_prior(directory: pathlib.Path, params: Any) -> LearnedPrior:
  """The prior that `save_prior` wrote; `params` are the codec's.

  Raises:
    CodecError: if it is damaged, does not fit the codec, or was written by a newer version.
  """
  path = directory / "prior.json"
  try:
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["version"] != _VERSION:
      raise CodecError(f"{path} has version {stored['version']}, this reader {_VERSION}")
    if any(type(value) is not int for value in stored["sizes"].values()):
      raise TypeError("sizes are integers")
    config = PriorConfig(**stored["sizes"])
    codebooks = params["quantizer"]["codebooks"]
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise CodecError(f"{path} does not describe a prior of this codec: {error}") from None
  shape = (config.num_codebooks, config.codebook_size, config.latent)
  if codebooks.shape != shape:
    raise CodecError(f"{path} is for codebooks {shape}, the codec has {codebooks.shape}")
  tensors = Tensors(directory, name="prior.safetensors")
  shapes, kinds = prior_model.shapes(config), prior_model.dtypes(config)
  leaves = [
    tensors.take(name, leaf.shape, kind)
    for (name, leaf), kind in zip(_named(shapes).items(), jax.tree.leaves(kinds), strict=True)
  ]
  tensors.finish()
  params = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
  if not prior_model.in_range(params):
    raise CodecError(f"{directory / 'prior.safetensors'} holds weights that are out of range")
  return LearnedPrior(config=config, params=params, vectors=_vectors(codebooks))


def _vectors(codebooks) -> np.ndarray:
  return np.asarray(prior_model.code_vectors(jnp.asarray(codebooks)), np.int16)


def _named(tree: Any) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
