"""What chips send each other in a compiled program, read from its HLO, and how long it takes."""

import math
import re
from collections import defaultdict
from typing import NamedTuple

from jaxcodec.training.hlo import Instruction, Module
from jaxcodec.training.topology import Slice

_HOP_SECONDS = 1e-6
_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# One that goes on while others compute is written again in each of them.
_CONTINUED = re.compile(r'"flag_end":"\d')


class Collective(NamedTuple):
  """Collectives of one kind and group size.

  Attributes:
    kind: such as "all-reduce".
    group: chips that take part together.
    calls: how many a step runs.
    num_bytes: on a chip, of them all: of what is reduced, and of what gathering gives.
  """

  kind: str
  group: int
  calls: int
  num_bytes: int


def collectives(module: Module, chips: int) -> list[Collective]:
  """The collectives of a program; those within loops count as often as the loop runs.

  Of branches the one counts that sends most.
  """
  sent: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
  for name, instructions in module.computations.items():
    for one in instructions:
      kind = one.opcode.removesuffix("-start")
      if kind not in _KINDS or _CONTINUED.search(one.rest):
        continue
      group = _group(one.rest, kind, chips)
      num_bytes = _num_bytes(one, kind, group)
      if name.startswith("all-reduce-scatter"):
        # As TPUs' compiler writes it: a sum of which each chip takes its part.
        kind = "reduce-scatter"
      if group > 1:
        sent[name].append((kind, group, num_bytes))
  weights = {name: sum(size for *_, size in found) for name, found in sent.items()}
  times = module.times(weights, applied=True)
  totals: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
  for name in sent.keys() & times.keys():
    for kind, group, num_bytes in sent[name]:
      totals[kind, group][0] += times[name]
      totals[kind, group][1] += times[name] * num_bytes
  return [Collective(*key, *value) for key, value in sorted(totals.items())]


def seconds(collective: Collective, place: Slice) -> float:
  """How long they take one after another, by rings along the torus's axes.

  A group that is not the whole slice is taken to lie along an axis of its size, if there is one,
  else along a line.
  """
  kind, group, calls, num_bytes = collective
  sides = [side for side in place.sides if side > 1]
  if group != math.prod(sides):
    sides = [group]
  wraps = [side % place.chip.wraps == 0 for side in sides]
  bandwidth = place.chip.link_bandwidth * sum(2 if wrap else 1 for wrap in wraps)
  hops = sum(side // 2 if wrap else side - 1 for side, wrap in zip(sides, wraps, strict=True))
  if kind == "collective-permute":
    return num_bytes / place.chip.link_bandwidth + calls * _HOP_SECONDS
  if kind == "all-to-all":
    return num_bytes * group / 4 / bandwidth + calls * hops * _HOP_SECONDS
  once = num_bytes * (group - 1) / group / bandwidth + calls * hops * _HOP_SECONDS
  return 2 * once if kind == "all-reduce" else once


def _num_bytes(one: Instruction, kind: str, group: int) -> int:
  total = sum(array.num_bytes for array in one.arrays())
  started = one.opcode.endswith("-start")
  if started and kind == "all-gather":  # Holds what is gathered as well.
    return total * group // (group + 1)
  if started and kind == "collective-permute":
    return total // 2
  return total * group if kind == "reduce-scatter" else total


def _group(line: str, kind: str, chips: int) -> int:
  """Chips of a group, from each of the ways in which HLO writes them."""
  if kind == "collective-permute":
    return 2
  axes = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line)
  if axes:
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", axes[1]))
    return math.prod(int(sizes[name]) for name in re.findall(r"'([^']+)'", axes[2]))
  iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line)
  if iota:
    return int(iota[2])
  listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
  return listed[1].count(",") + 1 if listed else chips
