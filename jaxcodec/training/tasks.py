"""What runs of different kinds do at the same places of the loop."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxcodec.fingerprint import module_config
from jaxcodec.hub import native, picture
from jaxcodec.training import (
  codecs,
  diagnosis,
  principal,
  rate_distortion,
  samples,
  sequences,
  state,
  step,
)
from jaxcodec.training.config import Train
from jaxcodec.training.rate_distortion import TrainPictures
from jaxcodec.training.sequences import TrainCodes

Run = Train | TrainCodes | TrainPictures


class Task(NamedTuple):
  """A run's parts.

  Attributes:
    module: what learns.
    description: of it, as JSON values; a run's directory has it.
    dtype: of a batch.
    init: `key -> TrainState`.
    step: `(state, batch, key) -> (state, metrics)`.
    prepare: `(state, key, data, step, place) -> state` before each step.
    diagnose: `(state, batch, finite) -> str`, why numbers are not finite.
    show: `(log, state, batch, step, workdir, mesh)`, samples.
  """

  module: Any
  description: dict[str, Any]
  dtype: str
  init: Callable
  step: Callable
  prepare: Callable
  diagnose: Callable
  show: Callable


def check(config: Run) -> None:
  """Raises ValueError for what contradicts itself, naming the fields."""
  for name in ("batch_size", "num_steps", "accumulate", "stop_after", "save_every", "log_every"):
    if getattr(config, name) < 1:
      raise ValueError(f"{name}={getattr(config, name)} must be at least 1")
  if isinstance(config, Train):
    codecs.check(config)
  elif isinstance(config, TrainPictures):
    rate_distortion.check(config)


def of(config: Run) -> Task:
  """The parts of a run."""
  partial = functools.partial
  if isinstance(config, TrainCodes):
    module = {"name": config.name, "system": "code-transformer"}
    return Task(
      module=config.model,
      description=module | {"module": module_config(config.model)},
      dtype="int32",
      init=partial(sequences.init_state, config=config),
      step=partial(sequences.train_step, config=config),
      prepare=lambda state, *_: state,
      diagnose=lambda state, _, finite: diagnosis.bad_numbers(state.params, finite),
      show=lambda *_: None,
    )
  if isinstance(config, TrainPictures):
    return Task(
      module=config.codec,
      description=picture.description(config.name, config.codec),
      dtype="float32",
      init=partial(rate_distortion.init_state, config=config),
      step=partial(rate_distortion.train_step, config=config),
      prepare=partial(principal.begun, config=config),
      diagnose=lambda state, _, finite: diagnosis.bad_numbers(state.params, finite),
      show=lambda *_: None,
    )
  return Task(
    module=config.codec,
    description=native.description(config.name, config.codec),
    dtype="float32",
    init=partial(state.init_state, config=config),
    step=partial(step.train_step, config=config),
    prepare=partial(codecs.with_kmeans, config=config),
    diagnose=partial(diagnosis.diagnose, config=config),
    show=partial(samples.show, config=config),
  )
