"""Checkpoints of a run by Orbax: written while training goes on, whole or not at all."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from jaxcodec.errors import CodecError
from jaxcodec.training.state import TrainState
from jaxcodec.training.tasks import Run

NAME = "checkpoints"


@contextlib.contextmanager
def opened(config: Run, workdir: pathlib.Path) -> Iterator[ocp.training.Checkpointer]:
  """The checkpoints of a run; waits at the end until what was begun is written."""
  policies = ocp.training.preservation_policies
  keep = [policies.LatestN(max(1, config.keep_last))]
  if config.keep_best:
    best = policies.BestN(
      get_metric_fn=lambda metrics: metrics["objective"], reverse=True, n=config.keep_best
    )
    keep.append(best)
  with ocp.training.Checkpointer(
    workdir.absolute() / NAME,
    save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
    preservation_policy=policies.AnyPreservationPolicy(keep),
    cleanup_tmp_directories=True,
  ) as checkpointer:
    yield checkpointer


def save(checkpointer, step: int, state: TrainState, objective: float) -> None:
  """Begins to write a state; returns once it is copied, and may then be donated.

  Args:
    objective: what the best checkpoints have the least of.
  """
  checkpointer.save_async(step, state._asdict(), force=True, metrics={"objective": objective})


def restore(checkpointer, shapes: TrainState, shardings: Any) -> TrainState:
  """The latest state, placed as this run's mesh asks, whatever mesh wrote it.

  Raises:
    CodecError: if the checkpoint is not of this configuration, or damaged.
  """
  wanted = jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    shapes,
    shardings,
  )
  try:
    return TrainState(**checkpointer.load(None, wanted._asdict()))
  except Exception as error:  # Of any kind: several packages read the files in turn.
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise CodecError(
      f"the checkpoint in {checkpointer.directory} does not fit this run: {reason[:200]}"
    ) from None
