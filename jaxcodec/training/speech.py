"""Runs that learn to write down speech: their configuration, start and step."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcodec.audio.stateful_conformer import StatefulConformer
from jaxcodec.data.transcribed import Transcribed, Utterance
from jaxcodec.training import sequences
from jaxcodec.training.config import Adam, Mesh
from jaxcodec.training.state import TrainState, plain_state

MESH = Mesh()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSpeech:
  """A run; the fields that are not said here are those of `config.Train`.

  Attributes:
    model: what learns.
    data: what to learn from.
  """

  name: str
  model: StatefulConformer
  data: Transcribed
  batch_size: int
  num_steps: int
  optimizer: Adam
  mesh: Mesh = MESH
  accumulate: int = 1
  remat: bool = False
  average_decay: float = 0.999
  compute_dtype: Any = jnp.float32
  seed: int = 0
  stop_after: int = 10
  save_every: int = 1000
  keep_last: int = 2
  keep_best: int = 1
  log_every: int = 50

  samples_every: ClassVar[int] = 0


def init_state(key, config: TrainSpeech) -> TrainState:
  """The start of a run."""
  # Shapes of weights depend on no length.
  mel = jnp.zeros((1, 9, config.model.config.bands))
  labels = jnp.zeros((1, 1), jnp.int32)
  params = config.model.init(key, mel, jnp.array([9]), labels, 0, 0)["params"]
  return plain_state(params, config.optimizer.transformation(config.num_steps))


def train_step(
  state: TrainState, batch: Utterance, key, *, config: TrainSpeech
) -> tuple[TrainState, dict]:
  """Takes a step under a context that is drawn for all of its rows; see `step.train_step`."""
  key = jax.random.fold_in(key, state.step)

  def loss(params, batch: Utterance):
    cast = jax.tree.map(lambda p: p.astype(config.compute_dtype), params)
    run = lambda params: config.model.apply(  # noqa: E731
      {"params": params}, batch.x, batch.length, batch.labels, key, method="objective"
    )
    total, losses = (jax.checkpoint(run) if config.remat else run)(cast)
    return total, dict(losses)

  return sequences.learnt(state, batch, loss, config)
