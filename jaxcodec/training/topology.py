"""TPU slices to compile for on a machine without TPUs, and what their chips can do.

Needs the package libtpu of the installed jax (`jax[tpu]`), which holds the TPU compiler. Nothing
runs. The chips' figures: https://jax-ml.github.io/scaling-book/tpus/.
"""

import contextlib
import math
import os
import re
from typing import NamedTuple

import jax

# libtpu would lock the machine and ask a server which TPU it is on; here it only compiles.
ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


class Chip(NamedTuple):
  """A generation.

  Attributes:
    hbm_bytes: of memory that programs may use.
    flops: bfloat16, a second.
    hbm_bandwidth: bytes a second.
    link_bandwidth: bytes a second in one direction of one link to a neighbour.
    wraps: an axis of a multiple of so many chips is a ring.
    smallest: the smallest slice that the compiler knows.
  """

  hbm_bytes: float
  flops: float
  hbm_bandwidth: float
  link_bandwidth: float
  wraps: int
  smallest: str


CHIPS = {
  "v5e": Chip(15.75 * 2**30, 1.97e14, 8.1e11, 4.5e10, 16, "2x2"),
  "v5p": Chip(95.74 * 2**30, 4.59e14, 2.8e12, 9e10, 4, "2x2x1"),
  "v6e": Chip(31.25 * 2**30, 9.2e14, 1.6e12, 9e10, 16, "2x2"),
}


class Slice(NamedTuple):
  """Chips that belong together.

  Attributes:
    name: such as "v5e:4x4".
    sides: chips along each axis of the torus.
    devices: to compile for.
  """

  name: str
  chip: Chip
  sides: tuple[int, ...]
  devices: list[jax.Device]


def slice_of(name: str) -> Slice:
  """The slice of a name such as "v5e:16x16"; one of a single chip is "v5e:1x1".

  Raises:
    ValueError: if there is no such slice, or libtpu is not installed.
  """
  found = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", name)
  if found is None or found[1] not in CHIPS:
    kinds = ", ".join(CHIPS)
    raise ValueError(f"no topology {name!r}: give one of {kinds}, and sides, as in v5e:4x4")
  chip, sides = CHIPS[found[1]], tuple(int(side) for side in found[2].split("x"))
  single = math.prod(sides) == 1
  asked = f"{found[1]}:{chip.smallest}" if single else name
  os.environ.update(ENVIRONMENT)
  from jax.experimental import topologies

  try:
    devices = list(topologies.get_topology_desc(asked, platform="tpu").devices)
  except (jax.errors.JaxRuntimeError, NotImplementedError, RuntimeError) as error:
    reason = str(error).splitlines()[0][:200]
    raise ValueError(f"no topology {name!r} (it needs the package libtpu): {reason}") from None
  return Slice(name, chip, sides, devices[:1] if single else devices)


def compiled(lowered, *, quick: bool = False):
  """`lowered.compile()` past the cache on disk: without a TPU nothing can be read back from it.

  Args:
    quick: whether the compiler shall spare itself effort, at the price of a program that is larger
      and moves more.
  """
  with effort(quick):
    return lowered.compile()


@contextlib.contextmanager
def effort(quick: bool):
  """Within it the compiler works as `compiled` says."""
  changes: dict[str, float | str] = {"jax_persistent_cache_min_compile_time_secs": float("inf")}
  if quick:
    changes["jax_optimization_level"] = "O0"
  before = {name: jax.config.values[name] for name in changes}
  try:
    for name, value in changes.items():
      jax.config.update(name, value)
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
