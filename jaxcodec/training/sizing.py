"""A run's step compiled for a TPU slice: what each chip holds, computes and sends, and how long.

A roofline: the step takes as long as the slower of computing and memory, and then as long as its
collectives one after another. XLA hides a part of these behind computation, so the share of
communication is an upper bound.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import jax

from jaxcodec.training import hlo, operations, planning, sharding, topology
from jaxcodec.training.collectives import Collective, collectives, seconds
from jaxcodec.training.placed import arguments, placed_step
from jaxcodec.training.tasks import Run
from jaxcodec.training.traffic import traffic


class TooLarge(Exception):
  """The step does not fit on the chips; the message has the compiler's figures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """One step on one chip.

  Attributes:
    place: the slice.
    parameters, optimizer, state: bytes of the codec's and discriminators' weights, of what their
      optimizers keep, and of all that goes from step to step.
    activations: bytes that the step needs besides.
    hbm_bytes: of the chip.
    flops: of products and convolutions; `traced` says how many there are if nothing is repeated.
    bytes_accessed: of the chip's large memory (`traffic`).
    sent: what the chips send each other.
    compute_seconds, communication_seconds: of the roofline.
  """

  place: topology.Slice
  parameters: int
  optimizer: int
  state: int
  activations: int
  hbm_bytes: float
  flops: float
  traced: float
  bytes_accessed: float
  sent: tuple[Collective, ...]
  compute_seconds: float
  communication_seconds: float

  @property
  def peak(self) -> int:
    """Bytes at once."""
    return self.state + self.activations

  @property
  def seconds(self) -> float:
    return self.compute_seconds + self.communication_seconds

  @property
  def communication(self) -> float:
    """Its share of the step."""
    return self.communication_seconds / self.seconds


def report(
  config: Run, place: topology.Slice, *, at: int = 0, quick: bool = False, plan: bool = False
) -> Report:
  """Compiles a step of `config`; `quick` as of `topology.compiled`.

  Args:
    at: the step of the run; a run of several stages has a program for each (`tasks.Task.steps`).
    plan: whether to stop before code is generated (`planning.planned`); the program itself then
      counts in no memory.

  Raises:
    TooLarge: if it does not fit in the chips' memory.
    ValueError: for a mesh or a batch that does not fit the slice.
  """
  mesh = sharding.make_mesh(config.mesh, place.devices)
  sharding.check_batch(config.batch_size, config.accumulate, mesh)
  placed = placed_step(config, mesh)
  shapes, places = placed.shapes, placed.shardings
  weights = ("params", "discriminators")
  optimizers = ("optimizer", "discriminator_optimizer")
  state = _local_bytes(shapes, places)
  if state > place.chip.hbm_bytes:
    raise TooLarge(f"the state alone takes {state / 2**30:.2f} GiB of each chip")
  chips = len(place.devices)
  with jax.set_mesh(mesh):
    traced = placed.step_at(at).trace(*arguments(config, placed, mesh))
  lowered = traced.lower(lowering_platforms=("tpu",))
  try:
    program = (planning.planned if plan else planning.compiled)(lowered, quick=quick)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise TooLarge(_reason(str(error))) from None
  if program.num_bytes > place.chip.hbm_bytes:
    sizes = (size / 2**30 for size in (program.num_bytes, place.chip.hbm_bytes))
    raise TooLarge("the step takes {:.2f}G of {:.2f}G of each chip".format(*sizes))
  module = hlo.read(program.text)
  sent = collectives(module, chips)
  num_bytes = traffic(module)
  once = operations.flops(traced.jaxpr.jaxpr, "tpu") / chips
  flops = max(once, program.flops)
  compute = max(flops / place.chip.flops, num_bytes / place.chip.hbm_bandwidth)
  return Report(
    place=place,
    parameters=sum(_local_bytes(getattr(shapes, n), getattr(places, n)) for n in weights),
    optimizer=sum(_local_bytes(getattr(shapes, n), getattr(places, n)) for n in optimizers),
    state=state,
    activations=program.num_bytes - state,
    hbm_bytes=place.chip.hbm_bytes,
    flops=flops,
    traced=once,
    bytes_accessed=num_bytes,
    sent=tuple(sent),
    compute_seconds=compute,
    communication_seconds=sum(seconds(one, place) for one in sent),
  )


def remedies(config: Run, chips: int) -> Iterator[tuple[str, Run]]:
  """Settings, as `--set` takes them, that make a step smaller: the cheapest first."""
  settings: list[str] = []
  if not config.remat:
    settings.append("remat=true")
    config = dataclasses.replace(config, remat=True)
    yield " ".join(settings), config
  parts = chips // max(1, config.mesh.model)
  if config.mesh.fsdp < parts:
    settings += ["mesh.data=1", f"mesh.fsdp={parts}"]
    config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=1, fsdp=parts))
    yield " ".join(settings), config
  smallest = parts * config.accumulate
  batch = config.batch_size // 2
  while batch >= smallest and batch % smallest == 0:
    smaller = dataclasses.replace(config, batch_size=batch)
    yield " ".join([*settings, f"batch_size={batch}"]), smaller
    batch //= 2


def smaller(
  config: Run, place: topology.Slice, *, at: int = 0, quick: bool = False, plan: bool = False
) -> tuple[str, Report] | None:
  """The first of `remedies` with which the step fits, and its report, as `report` gives it."""
  for setting, changed in remedies(config, len(place.devices)):
    try:
      return setting, report(changed, place, at=at, quick=quick, plan=plan)
    except TooLarge:
      continue
  return None


def _local_bytes(shapes, shardings) -> int:
  """Bytes of a chip's parts of arrays."""

  def local(leaf, place):
    return math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize

  return sum(jax.tree.leaves(jax.tree.map(local, shapes, shardings)))


def _reason(message: str) -> str:
  used = r"Used ([\d.]+\w) of ([\d.]+\w) hbm"
  needed = r"\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)"
  found = re.search(f"{used}|{needed}", message)
  if found:
    took, there = (part for part in found.groups() if part)
    return f"the step takes {took} of {there} of each chip"
  return " ".join(message.removeprefix("RESOURCE_EXHAUSTED: ").split())[:300]
