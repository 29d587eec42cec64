"""What chips send each other in a compiled program, read from its HLO, and how long it takes."""

import functools
import math
import re
from collections import defaultdict
from typing import NamedTuple

from jaxcodec.training.topology import Slice

_HOP_SECONDS = 1e-6
_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_CALL = re.compile(r" (" + "|".join(_KINDS) + r")(-start)?\(")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(
  r"branch_computations=\{([^}]*)\}|true_computation=(\S+?), false_computation=([\w.\-%]+)"
)


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


def collectives(hlo: str, chips: int) -> list[Collective]:
  """The collectives of a program's text; those within loops count as often as the loop runs.

  Of branches the one counts that sends most.
  """
  found, edges, limits, entry = _read(hlo, chips)
  sent: dict[str, int] = defaultdict(int)
  for computation, _, group, num_bytes in found:
    sent[computation] += num_bytes if group > 1 else 0
  times = _times(edges, limits, sent, entry)
  totals: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
  for computation, kind, group, num_bytes in found:
    if group > 1 and times[computation]:
      totals[kind, group][0] += times[computation]
      totals[kind, group][1] += times[computation] * num_bytes
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


def _read(hlo: str, chips: int):
  """Collectives by computation, who calls one of whom how often, limits of loops, the entry."""
  found: list[tuple[str, str, int, int]] = []
  limits: dict[str, int] = {}
  edges: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
  here = entry = ""
  for line in hlo.splitlines():
    header = _HEADER.match(line)
    if header:
      here = header[2]
      entry = here if header[1] else entry
      continue
    if " constant(" in line:
      number = re.search(r"s32\[\]\S* constant\((\d+)\)", line)
      limits[here] = max(limits.get(here, 1), int(number[1])) if number else limits.get(here, 1)
    if "=%" in line:
      names = dict(re.findall(r"(body|condition)=%?([\w.\-]+)", line))
      for name in _CALLED.findall(line):
        loop = names["condition"] if name == names.get("body") else ""
        edges[here].append(((name,), loop))
    branches = _BRANCHES.search(line)
    if branches:
      listed = branches[1].split(",") if branches[1] else branches.groups()[1:]
      edges[here].append((tuple(name.strip().lstrip("%") for name in listed), ""))
    call = _CALL.search(line)
    if call:
      kind, started = call[1], bool(call[2])
      group = _group(line, kind, chips)
      found.append((here, kind, group, _num_bytes(line[: call.start()], kind, started, group)))
  return found, edges, limits, entry


def _times(edges, limits, sent, entry: str) -> dict[str, int]:
  """How often each computation runs: a loop's limit is the largest constant of its condition."""
  times: dict[str, int] = defaultdict(int)

  def repeated(condition: str) -> int:
    return limits.get(condition, 1) if condition else 1

  @functools.cache
  def weight(name: str) -> int:
    """Bytes that it sends with all that it calls."""
    called = (repeated(loop) * max(map(weight, names)) for names, loop in edges.get(name, ()))
    return sent.get(name, 0) + sum(called)

  def visit(name: str, count: int) -> None:
    times[name] += count
    for names, loop in edges.get(name, ()):
      visit(max(names, key=weight), count * repeated(loop))

  visit(entry, 1)
  return times


def _num_bytes(result: str, kind: str, started: bool, group: int) -> int:
  shapes = [(d, s) for d, s in _SHAPE.findall(result.split(" = ", 1)[-1]) if d != "token"]
  total = sum(_width(d) * math.prod(int(n) for n in s.split(",") if n) for d, s in shapes)
  if started and kind == "all-gather":  # Holds what is gathered as well.
    return total * group // (group + 1)
  if started and kind == "collective-permute":
    return total // 2
  return total * group if kind == "reduce-scatter" else total


def _width(dtype: str) -> int:
  digits = re.search(r"\d+", dtype)
  return max(1, int(digits[0]) // 8) if digits else 1


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
