"""The loop around the step: data, mesh, checkpoints, what is shown, and how a run ends."""

import contextlib
import functools
import pathlib
import signal
import threading
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxcodec.data import pipeline
from jaxcodec.errors import CodecError
from jaxcodec.hub import run as run_files
from jaxcodec.training import checkpoints, sharding, tasks, watch
from jaxcodec.training.placed import placed_step
from jaxcodec.training.state import TrainState
from jaxcodec.training.tasks import Run


def run(
  config: Run,
  workdir: pathlib.Path,
  *,
  profile: bool = False,
  quiet: bool = False,
  devices: Sequence[jax.Device] | None = None,
) -> TrainState:
  """Trains until the last step, or until SIGTERM; goes on from the last checkpoint in `workdir`.

  What can be wrong with the call is found before anything is compiled.

  Args:
    profile: whether to write a trace of a few steps to `workdir/profile`.
    quiet: whether to show nothing; the log is written all the same.
    devices: that make up the mesh; None for all.

  Raises:
    CodecError: for data that turns out to be damaged, or numbers that are not finite for
      `config.stop_after` steps in a row.
    ValueError: for a configuration that contradicts itself or the devices, data that cannot be
      opened, or the `workdir` of another run.
  """
  mesh = sharding.make_mesh(config.mesh, devices)
  sharding.check_batch(config.batch_size, config.accumulate, mesh)
  tasks.check(config)
  task = tasks.of(config)
  try:
    data = pipeline.dataset(
      config.data,
      task.module,
      batch_size=config.batch_size,
      num_steps=config.num_steps,
      seed=config.seed,
      process=jax.process_index(),
      processes=jax.process_count(),
    )
    run_files.claim(task.description, workdir)
  except CodecError as error:
    raise ValueError(str(error)) from None
  key = jax.random.key(config.seed)
  placed = placed_step(config, mesh)
  with checkpoints.opened(config, workdir) as checkpointer, _Stop() as stop, jax.set_mesh(mesh):
    if checkpointer.latest is None:
      state = _initial(placed.init, placed.shardings)(key)
    else:
      state = checkpoints.restore(checkpointer, placed.shapes, placed.shardings)
    first = int(state.step)
    place = functools.partial(_global, mesh=mesh)
    source = pipeline.batches(config.data, data, first)
    batches = map(place, source)
    objectives, traced = [], min(first + 3, config.num_steps - 1)
    following = next(batches, None)
    metrics: dict[str, Any] = {}
    writes = jax.process_index() == 0
    log = watch.Log(workdir, first, config.num_steps, quiet=quiet or not writes, writes=writes)
    with contextlib.closing(source), contextlib.ExitStack() as tracing, log:
      for step in range(first, config.num_steps):
        batch = following
        state = task.prepare(state, key, data, step, place)
        if profile and step == traced:
          tracing.enter_context(jax.profiler.trace(str(workdir / "profile")))
        state, metrics = placed.step_at(step)(state, batch, key)
        # Placed while the step runs.
        following = next(batches, None)
        if step == traced + 2:
          jax.block_until_ready(metrics["objective"])
          tracing.close()
        finite = metrics.pop("finite")
        objectives.append(metrics["objective"])
        done = step + 1
        log.step(done)
        if float(metrics["skipped_in_row"]) >= config.stop_after:
          reason = task.diagnose(state, batch, finite)
          raise CodecError(
            f"{config.stop_after} steps in a row were not finite, the last of them {done}: {reason}"
          )
        last, stopping = done == config.num_steps, stop.asked(done)
        if done % config.log_every == 0 or last:
          log.write(done, {name: float(metrics[name]) for name in sorted(metrics)})
        if config.samples_every and (done % config.samples_every == 0 or last):
          task.show(log, state, batch, done, workdir, mesh)
        if done % config.save_every == 0 or last or stopping:
          checkpoints.save(checkpointer, done, state, _mean(objectives))
          objectives = []
        if stopping:
          break
  return state


def _mean(values: list[jax.Array]) -> float:
  """Of those that are finite; infinite, so never the best, if none is."""
  finite = [value for value in map(float, values) if np.isfinite(value)]
  return sum(finite) / len(finite) if finite else np.inf


def _initial(init, shardings):
  # It runs once: on a CPU, optimizing its many draws takes far longer than they do.
  quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  return jax.jit(init, out_shardings=shardings, compiler_options=quick)


def _global(rows, mesh):
  """This process's rows as its part of the global batch."""
  place = functools.partial(jax.make_array_from_process_local_data, sharding.batch_sharding(mesh))
  return jax.tree.map(place, rows)


class _Stop:
  """Whether this process, or any other of the run, was told to stop by SIGTERM."""

  def __init__(self):
    self._asked = False

  def __enter__(self):
    # Signals reach the main thread alone; a run in another thread goes without.
    self._handles = (
      threading.current_thread() is threading.main_thread() and jax.process_count() == 1
    )
    if self._handles:
      self._before = signal.signal(signal.SIGTERM, self._note)
    return self

  def __exit__(self, *_):
    if self._handles:
      signal.signal(signal.SIGTERM, self._before)

  def _note(self, *_):
    self._asked = True

  def asked(self, step: int) -> bool:
    if jax.process_count() == 1:
      return self._asked
    # All processes stop at one step, or their collectives would wait for each other.
    return multihost_utils.reached_preemption_sync_point(step)
