"""What runs of different kinds do at the same places of the loop."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxcodec.audio.code_lm import CodeLm
from jaxcodec.data.labelled import Example
from jaxcodec.data.taught import Taught, TaughtSound
from jaxcodec.data.transcribed import LETTERS, Utterance
from jaxcodec.fingerprint import module_config
from jaxcodec.hub import native, picture
from jaxcodec.training import (
  classes,
  codecs,
  diagnosis,
  principal,
  rate_distortion,
  samples,
  semanticodec,
  sequences,
  speech,
  state,
  step,
)
from jaxcodec.training.classes import TrainClassifier
from jaxcodec.training.config import Train
from jaxcodec.training.rate_distortion import TrainPictures
from jaxcodec.training.semanticodec import TrainSemantic
from jaxcodec.training.sequences import TrainCodes
from jaxcodec.training.speech import TrainSpeech

Run = Train | TrainCodes | TrainSpeech | TrainPictures | TrainClassifier | TrainSemantic


class Task(NamedTuple):
  """A run's parts.

  Attributes:
    module: what learns.
    description: of it, as JSON values; a run's directory has it.
    dtype: of a batch, or of each of its parts.
    init: `key -> TrainState`.
    steps: `(state, batch, key) -> (state, metrics)`, by the step of the run from which on it is
      the one that is taken.
    prepare: `(state, key, data, step, place) -> state` before each step.
    diagnose: `(state, batch, finite) -> str`, why numbers are not finite.
    show: `(log, state, batch, step, workdir, mesh)`, samples.
  """

  module: Any
  description: dict[str, Any]
  dtype: Any
  init: Callable
  steps: dict[int, Callable]
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
  elif isinstance(config, TrainClassifier):
    classes.check(config)
  elif isinstance(config, TrainSemantic):
    semanticodec.check(config)
  elif isinstance(config, TrainCodes) and not 0 <= config.drop_read < 1:
    raise ValueError(f"drop_read={config.drop_read} must be at least 0 and less than 1")


def of(config: Run) -> Task:
  """The parts of a run."""
  partial = functools.partial
  if isinstance(config, TrainSpeech):
    module = {"name": config.name, "system": "stateful-conformer", "symbols": LETTERS}
    return Task(
      module=config.model,
      description=module | {"module": module_config(config.model)},
      dtype=Utterance("float32", "int32", "int32"),
      init=partial(speech.init_state, config=config),
      steps={0: partial(speech.train_step, config=config)},
      prepare=lambda state, *_: state,
      diagnose=lambda state, _, finite: diagnosis.bad_numbers(state.params, finite),
      show=lambda *_: None,
    )
  if isinstance(config, TrainClassifier):
    module = {"name": config.name, "system": "lmuformer", "names": config.data.names}
    return Task(
      module=config.model,
      description=module | {"module": module_config(config.model)},
      dtype=Example("float32", "int32"),
      init=partial(classes.init_state, config=config),
      steps={0: partial(classes.train_step, config=config)},
      prepare=lambda state, *_: state,
      diagnose=lambda state, _, finite: diagnosis.bad_numbers(state.params, finite),
      show=lambda *_: None,
    )
  if isinstance(config, TrainCodes):
    system = "code-lm" if isinstance(config.model, CodeLm) else "code-transformer"
    module = {"name": config.name, "system": system}
    return Task(
      module=config.model,
      description=module | {"module": module_config(config.model)},
      dtype="int32",
      init=partial(sequences.init_state, config=config),
      steps={0: partial(sequences.train_step, config=config)},
      prepare=lambda state, *_: state,
      diagnose=lambda state, _, finite: diagnosis.bad_numbers(state.params, finite),
      show=lambda *_: None,
    )
  if isinstance(config, TrainSemantic):
    return Task(
      module=config.codec,
      description=native.description(config.name, config.codec),
      dtype="float32",
      init=partial(semanticodec.init_state, config=config),
      steps={
        0: partial(semanticodec.train_step, config=config, second=False),
        config.start_step: partial(semanticodec.train_step, config=config, second=True),
      },
      prepare=partial(semanticodec.begun, config=config),
      diagnose=lambda state, _, finite: diagnosis.bad_numbers(
        semanticodec.learnt(state, config), finite
      ),
      show=lambda *_: None,
    )
  if isinstance(config, TrainPictures):
    return Task(
      module=config.codec,
      description=picture.description(config.name, config.codec),
      dtype="float32",
      init=partial(rate_distortion.init_state, config=config),
      steps={0: partial(rate_distortion.train_step, config=config)},
      prepare=partial(principal.begun, config=config),
      diagnose=lambda state, _, finite: diagnosis.bad_numbers(state.params, finite),
      show=lambda *_: None,
    )
  return Task(
    module=config.codec,
    description=native.description(config.name, config.codec),
    dtype=(
      Taught("float32", "float32", "bool") if isinstance(config.data, TaughtSound) else "float32"
    ),
    init=partial(state.init_state, config=config),
    steps={0: partial(step.train_step, config=config)},
    prepare=partial(codecs.with_kmeans, config=config),
    diagnose=partial(diagnosis.diagnose, config=config),
    show=partial(samples.show, config=config),
  )
