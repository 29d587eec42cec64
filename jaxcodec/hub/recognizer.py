"""Recognizers of speech: NeMo's `.nemo` files, and directories of our runs."""

import pathlib

import jax
import jax.numpy as jnp

from jaxcodec.audio.recognizer import Recognizer
from jaxcodec.audio.stateful_conformer import StatefulConformer
from jaxcodec.errors import CodecError
from jaxcodec.hub import nemo, run
from jaxcodec.hub.checkpoint import built, read_config


def load_recognizer(path: str | pathlib.Path) -> Recognizer:
  """The recognizer of a `.nemo` file, or of a run's latest checkpoint with its averaged weights.

  Raises:
    CodecError: if it is neither, or damaged.
  """
  path = pathlib.Path(path)
  if path.is_file():
    return nemo.load_nemo(path)
  config = read_config(path)
  if not run.is_run(config) or config.get("system") != "stateful-conformer":
    raise CodecError(f"{path} is not the run of a recognizer")
  try:
    module = built(StatefulConformer, dict(config["module"]))
    mel = jax.ShapeDtypeStruct((1, 9, module.config.bands), jnp.float32)
    one, labels = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((1,), (1, 1)))
    shapes = jax.eval_shape(module.init, jax.random.key(0), mel, one, labels, 0, 0)["params"]
    symbols = tuple(map(str, config["symbols"]))
  except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
    raise CodecError(f"{path / 'config.json'} does not describe a recognizer: {error}") from None
  found = run.latest(path / "checkpoints", {"average": shapes})
  return Recognizer(module, jax.tree.map(jnp.asarray, found["average"]), symbols)
