"""The loop around the step: data, mesh, checkpoints, what is shown, and how a run ends."""

import contextlib
import functools
import pathlib
import signal
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxcodec.data import pipeline
from jaxcodec.data.sound import Packed
from jaxcodec.errors import CodecError
from jaxcodec.hub import run as run_files
from jaxcodec.training import checkpoints, codebooks, diagnosis, samples, sharding, watch
from jaxcodec.training.config import Train
from jaxcodec.training.placed import placed_step
from jaxcodec.training.state import TrainState, output_terms


def run(
  config: Train,
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
  check(config)
  try:
    data = pipeline.dataset(
      config.data,
      config.codec,
      batch_size=config.batch_size,
      num_steps=config.num_steps,
      seed=config.seed,
      process=jax.process_index(),
      processes=jax.process_count(),
    )
    run_files.claim(config.name, config.codec, workdir)
  except CodecError as error:
    raise ValueError(str(error)) from None
  key = jax.random.key(config.seed)
  init, step_fn, shapes, shardings = placed_step(config, mesh)
  with checkpoints.opened(config, workdir) as checkpointer, _Stop() as stop, jax.set_mesh(mesh):
    if checkpointer.latest is None:
      state = _initial(init, shardings)(key)
    else:
      state = checkpoints.restore(checkpointer, shapes, shardings)
    first = int(state.step)
    place = functools.partial(_global, mesh=mesh)
    batches = map(place, pipeline.batches(config.data, data, first))
    objectives, traced = [], min(first + 3, config.num_steps - 1)
    following = next(batches, None)
    metrics: dict[str, Any] = {}
    writes = jax.process_index() == 0
    log = watch.Log(workdir, first, config.num_steps, quiet=quiet or not writes, writes=writes)
    with contextlib.ExitStack() as tracing, log:
      for step in range(first, config.num_steps):
        batch = following
        if config.quantization.kmeans_batches and step == config.quantization.start_step:
          state = _with_kmeans(state, key, data, step, place, config)
        if profile and step == traced:
          tracing.enter_context(jax.profiler.trace(str(workdir / "profile")))
        state, metrics = step_fn(state, batch, key)
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
          reason = diagnosis.diagnose(state, batch, finite, config)
          raise CodecError(
            f"{config.stop_after} steps in a row were not finite, the last of them {done}: {reason}"
          )
        last, stopping = done == config.num_steps, stop.asked(done)
        if done % config.log_every == 0 or last:
          log.write(done, {name: float(metrics[name]) for name in sorted(metrics)})
        if config.samples_every and (done % config.samples_every == 0 or last):
          samples.show(log, state, batch, done, workdir, config, mesh)
        if done % config.save_every == 0 or last or stopping:
          checkpoints.save(checkpointer, done, state, _mean(objectives))
          objectives = []
        if stopping:
          break
  return state


def check(config: Train) -> None:
  """Raises ValueError for what contradicts itself, naming the fields."""
  for name in ("batch_size", "num_steps", "accumulate", "stop_after", "save_every", "log_every"):
    if getattr(config, name) < 1:
      raise ValueError(f"{name}={getattr(config, name)} must be at least 1")
  quantization, weights = config.quantization, config.losses
  if quantization.decay:
    codebooks.paths(config)
  elif not weights.codebook:
    raise ValueError("quantization.decay=0 needs a weight for losses.codebook")
  if quantization.kmeans_batches and not quantization.decay:
    raise ValueError("quantization.kmeans_batches needs a quantization.decay")
  most = len(config.codec.codebook_sizes)
  if any(not 1 <= count <= most for count in quantization.active_choices):
    raise ValueError(f"quantization.active_choices must lie within 1 and {most}")
  terms = output_terms(config)
  if not terms:
    raise ValueError("no loss of the decoded signal has a weight: set losses.mel, .l1 or another")
  if weights.perceptual and weights.perceptual_loss is None:
    raise ValueError("losses.perceptual needs a losses.perceptual_loss")
  if config.adversary is None and (weights.adversarial or weights.features):
    raise ValueError("losses.adversarial and losses.features need an adversary")
  if weights.adaptive and ("adversarial" not in terms or weights.balanced):
    raise ValueError("losses.adaptive needs losses.adversarial, and no losses.balanced")


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


def _with_kmeans(state: TrainState, key, data, step: int, place, config: Train) -> TrainState:
  """Codebooks by k-means on the latents of this step's batch and of those after it."""
  wanted = range(step, min(step + config.quantization.kmeans_batches, len(data)))

  @jax.jit
  def encode(params, batch):
    x, segments = batch if isinstance(batch, Packed) else (batch, None)
    z = config.codec.apply({"params": params}, x, method="latents")
    if segments is not None:
      # k-means passes over what is not finite.
      z = jnp.where(segments[..., None] > 0, z, jnp.nan)
    # Batches may differ in length.
    return z.reshape(-1, z.shape[-1])

  @jax.jit
  def start(params, average, z):
    found, ema = codebooks.kmeans(config, params, jax.random.fold_in(key, 2**31 + step), z)
    # Counts as of one batch: the moving averages go on from there.
    share = 1 / len(wanted)
    ema = jax.tree.map(lambda leaf: leaf * share, ema)
    written = (codebooks.write(config, tree, found) for tree in (params, average))
    return (*written, ema)

  z = jnp.concatenate([encode(state.params, place(data[i])) for i in wanted])
  params, average, ema = start(state.params, state.average, z)
  new = state._replace(params=params, average=average, ema=ema)
  # Placed as they were: the step is compiled for that.
  return jax.tree.map(lambda a, b: jax.device_put(a, b.sharding), new, state)


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
