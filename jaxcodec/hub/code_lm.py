"""Language models over codes, from the directories of their runs or of MusicGen."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec.audio.code_lm import CodeLm
from jaxcodec.errors import CodecError
from jaxcodec.hub import musicgen, run
from jaxcodec.hub.checkpoint import built, read_config


class LoadedLm(NamedTuple):
  """A model and its weights, of a run the averaged ones."""

  module: CodeLm
  params: Any


def load_code_lm(directory: str | pathlib.Path) -> LoadedLm:
  """The language model of a run's latest checkpoint, or of MusicGen as `transformers` saves it.

  Raises:
    CodecError: if the directory is neither, holds no checkpoint yet, or is damaged.
  """
  directory = pathlib.Path(directory)
  config = read_config(directory)
  if musicgen.is_musicgen(config):
    model, params = musicgen.load_musicgen(directory, config)
    return LoadedLm(model, jax.tree.map(jnp.asarray, params))
  if not run.is_run(config) or config.get("system") != "code-lm":
    raise CodecError(f"{directory} is not the run of a language model over codes")
  try:
    module = built(CodeLm, dict(config["module"]))
    example = jax.ShapeDtypeStruct((1, 2, module.num_codebooks), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
  except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
    raise CodecError(f"{directory / 'config.json'} does not describe a model: {error}") from None
  found = run.latest(directory / "checkpoints", {"average": shapes})
  return LoadedLm(module, jax.tree.map(jnp.asarray, found["average"]))
