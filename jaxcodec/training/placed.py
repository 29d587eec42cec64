"""The step of a run as it is compiled: for a mesh, its state placed and donated."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec as P

from jaxcodec.training import sharding, tasks
from jaxcodec.training.state import TrainState
from jaxcodec.training.tasks import Run

# Without it XLA copies most of what is donated before it writes there: 187 MB of EnCodec's 253.
_COPIES_LESS = {"xla_cpu_copy_insertion_use_region_analysis": True}


class Placed(NamedTuple):
  """What `placed_step` gives.

  Attributes:
    init: `key -> TrainState`, not compiled.
    steps: `tasks.Task.steps`, jitted.
    shapes, shardings: of the state.
  """

  init: Callable[..., TrainState]
  steps: dict[int, Any]
  shapes: TrainState
  shardings: TrainState

  def step_at(self, step: int):
    """What the run takes at a step."""
    return self.steps[max(first for first in self.steps if first <= step)]


def placed_step(config: Run, mesh: jax.sharding.Mesh) -> Placed:
  """The step of `config` on `mesh`."""
  task = tasks.of(config)
  shapes = jax.eval_shape(task.init, jax.random.key(config.seed))
  shardings = sharding.state_shardings(shapes, mesh, config.mesh)
  on_cpu = mesh.devices.flat[0].platform == "cpu"
  jitted = functools.partial(
    jax.jit,
    donate_argnums=0,
    in_shardings=(shardings, sharding.batch_sharding(mesh), None),
    out_shardings=(shardings, None),
    compiler_options=_COPIES_LESS if on_cpu else None,
  )
  steps = {first: jitted(step) for first, step in task.steps.items()}
  return Placed(task.init, steps, shapes, shardings)


def arguments(config: Run, placed: Placed, mesh: jax.sharding.Mesh) -> tuple[Any, Any, Any]:
  """Shapes and placements of what the step takes; nothing is made."""
  state = jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
    placed.shapes,
    placed.shardings,
  )
  task = tasks.of(config)
  shape, place = config.data.shape(task.module), sharding.batch_sharding(mesh)

  def rows(dtype, shape):
    return jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=place)

  batch = jax.tree.map(rows, task.dtype, shape)
  key = jax.eval_shape(jax.random.key, 0)
  return state, batch, jax.ShapeDtypeStruct((), key.dtype, sharding=NamedSharding(mesh, P()))
