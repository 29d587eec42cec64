"""Classifiers of sound: LMUFormer's checkpoints, and directories of our runs."""

import pathlib

import jax
import jax.numpy as jnp

from jaxcodec.audio import lmuformer as network
from jaxcodec.audio.classifier import Classifier
from jaxcodec.errors import CodecError
from jaxcodec.hub import lmuformer, run
from jaxcodec.hub.checkpoint import built, read_config


def load_classifier(path: str | pathlib.Path) -> Classifier:
  """The classifier of the authors' `.pth` file, or of a run's latest checkpoint with its averaged
  weights.

  Raises:
    CodecError: if it is neither, or damaged.
  """
  path = pathlib.Path(path)
  if path.is_file():
    return lmuformer.load_lmuformer(path)
  config = read_config(path)
  if not run.is_run(config) or config.get("system") != "lmuformer":
    raise CodecError(f"{path} is not the run of a classifier")
  try:
    module = built(network.LmuFormer, dict(config["module"]))
    shapes = network.shapes_of(module.config)
    names = tuple(map(str, config["names"]))
  except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
    raise CodecError(f"{path / 'config.json'} does not describe a classifier: {error}") from None
  found = run.latest(path / "checkpoints", {"average": shapes})
  return Classifier(module, jax.tree.map(jnp.asarray, found["average"]), names)
