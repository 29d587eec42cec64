"""Language models over codes from the directories of their runs."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec.audio.code_lm import CodeLm
from jaxcodec.errors import CodecError
from jaxcodec.hub import run
from jaxcodec.hub.checkpoint import built, read_config


class LoadedLm(NamedTuple):
  """A model and its averaged weights."""

  module: CodeLm
  params: Any


def load_code_lm(directory: str | pathlib.Path) -> LoadedLm:
  """The language model of a run's latest checkpoint.

  Raises:
    CodecError: if the directory is no such run, holds no checkpoint yet, or is damaged.
  """
  directory = pathlib.Path(directory)
  config = read_config(directory)
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
