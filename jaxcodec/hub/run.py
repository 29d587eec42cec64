"""Runs of training as codecs: a directory with `config.json` and Orbax checkpoints."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec import atomic
from jaxcodec.codec import Codec
from jaxcodec.errors import CodecError
from jaxcodec.hub import native, picture
from jaxcodec.hub.checkpoint import read_config
from jaxcodec.image.latent_codec import LatentCodec, latent_codec

_FORMAT = "jaxcodec-run"
_VERSION = 1
_PRIOR_WEIGHT = 16.0  # Mean count of an entry in the tables that the entropy coder starts from.


def claim(description: dict[str, Any], workdir: pathlib.Path) -> None:
  """Makes `workdir` the run of what is described, such as a codec, or finds that it is.

  Raises:
    CodecError: if it is the run of another codec.
  """
  config = {"format": _FORMAT, "version": _VERSION} | description
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / "config.json"
  if not path.exists():
    atomic.write(path, (json.dumps(config, indent=2) + "\n").encode())
    return
  found, wanted = read_config(workdir), json.loads(json.dumps(config))
  if found != wanted:
    parts = {**_flat(wanted), **_flat(found)}
    old, new = _flat(found), _flat(wanted)
    key = next(key for key in parts if old.get(key) != new.get(key))
    raise CodecError(
      f"{workdir} is the run of another codec: {key} is {old.get(key)!r} there, "
      f"{new.get(key)!r} here"
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
  return flat


def is_run(config: dict[str, Any]) -> bool:
  return config.get("format") == _FORMAT


def load_run(directory: pathlib.Path) -> Codec | LatentCodec:
  """The codec of a run's latest checkpoint, with the averaged weights.

  For codes, the entropy coder starts from how often training used each.

  Raises:
    CodecError: if there is no checkpoint yet, or it is damaged.
  """
  config = read_config(directory)
  if config.get("version") != _VERSION:
    raise CodecError(f"{directory} has version {config.get('version')}, this reader {_VERSION}")
  if config.get("system") in picture.SYSTEMS:
    name, latent, shapes = picture.described(config, directory)
    params = latest(directory / "checkpoints", {"average": shapes})["average"]
    return latent_codec(latent, jax.tree.map(jnp.asarray, params), name)
  name, module, shapes = native.described(config, directory)
  sizes = module.codebook_sizes
  usage = jax.ShapeDtypeStruct((len(sizes), max(sizes)), jnp.float32)
  found = latest(directory / "checkpoints", {"average": shapes, "usage": usage})
  params = jax.tree.map(jnp.asarray, found["average"])
  counts = np.asarray(found["usage"], np.float64)
  mean = np.maximum(counts.mean(axis=1, keepdims=True), 1e-9)
  prior = np.round(counts * _PRIOR_WEIGHT / mean).astype(np.int32)
  return Codec(module=module, params=params, prior=jnp.asarray(prior), name=name)


def latest(directory: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
  """The parts of the latest checkpoint that are wanted, as NumPy arrays."""
  from orbax.checkpoint import v1 as ocp

  if not directory.is_dir():
    raise CodecError(f"{directory.parent} holds no checkpoint yet")
  # As NumPy arrays whatever devices they were written from, and no memory until they come.
  wanted = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), wanted)
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  try:
    with (
      context,
      ocp.training.Checkpointer(directory.absolute()) as checkpointer,
    ):
      if checkpointer.latest is None:
        raise CodecError(f"{directory.parent} holds no checkpoint yet")
      return checkpointer.load(None, wanted)
  except CodecError:
    raise
  except Exception as error:  # Of any kind: the files are read by several packages in turn.
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise CodecError(f"{directory} is not a run's checkpoints: {reason[:200]}") from None
