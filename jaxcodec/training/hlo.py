"""The text of a compiled program: its instructions, and how often each part of it runs."""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (?=(\()?)")
_OPCODE = re.compile(r" ([\w\-]+)\(")
_CALLED = re.compile(r"(calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(
  r"branch_computations=\{([^}]*)\}|true_computation=(\S+?), false_computation=([\w.\-%]+)"
)
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")


class Array(NamedTuple):
  """One of an instruction's results.

  Attributes:
    num_bytes: as it is written, without padding.
    space: where it lies: 0 is the chip's large memory.
  """

  num_bytes: int
  space: int


class Instruction(NamedTuple):
  """A line.

  Attributes:
    result: the text of its type.
    operands: names.
    rest: what follows the opening bracket.
  """

  name: str
  result: str
  opcode: str
  operands: tuple[str, ...]
  rest: str
  is_root: bool

  def arrays(self) -> list[Array]:
    return arrays(self.result)

  def called(self, *kinds: str) -> list[str]:
    """Computations by how they are called, such as "body"; all of them if not said how."""
    return [name for kind, name in _CALLED.findall(self.rest) if not kinds or kind in kinds]

  def branches(self) -> tuple[str, ...]:
    found = _BRANCHES.search(self.rest)
    if found is None:
      return ()
    names = found[1].split(",") if found[1] else found.groups()[1:]
    return tuple(name.strip().lstrip("%") for name in names)


class Module(NamedTuple):
  """A program.

  Attributes:
    computations: instructions by computation.
    entry: the computation that runs once.
  """

  computations: dict[str, list[Instruction]]
  entry: str

  def times(self, weights: Mapping[str, int], *, applied: bool) -> dict[str, int]:
    """How often computations run; a loop's limit is the largest constant of its condition.

    Args:
      weights: of computations: of branches the heaviest runs, with all that it calls.
      applied: whether those that instructions apply, such as a fusion's, count as well.
    """
    times: dict[str, int] = defaultdict(int)

    @functools.cache
    def weight(name: str) -> int:
      callees = self._callees(name, applied)
      return weights.get(name, 0) + sum(count * max(map(weight, names)) for names, count in callees)

    def visit(name: str, count: int) -> None:
      times[name] += count
      for names, more in self._callees(name, applied):
        visit(max(names, key=weight), count * more)

    visit(self.entry, 1)
    return times

  def _callees(self, name: str, applied: bool) -> Iterable[tuple[tuple[str, ...], int]]:
    """Computations of which one runs, and how often."""
    for instruction in self.computations.get(name, ()):
      conditions = instruction.called("condition")
      for body in instruction.called("body"):
        yield (body,), self._limit(conditions[0])
      for callee in conditions + (instruction.called("calls", "to_apply") if applied else []):
        yield (callee,), 1
      if instruction.branches():
        yield instruction.branches(), 1

  def _limit(self, condition: str) -> int:
    constants = (i for i in self.computations.get(condition, ()) if i.opcode == "constant")
    numbers = [re.match(r"(\d+)\)", i.rest) for i in constants if i.result.startswith("s32[]")]
    return max([1, *(int(number[1]) for number in numbers if number)])


def read(text: str) -> Module:
  computations: dict[str, list[Instruction]] = {}
  here, entry = "", ""
  for line in text.splitlines():
    header = _HEADER.match(line)
    if header:
      here = header[2]
      computations[here] = []
      entry = here if header[1] else entry
      continue
    found = _NAME.match(line)
    if found:
      start = found.end()
      end = _closed(line, start + 1) if found[3] else line.index(" ", start)
      opcode = _OPCODE.match(line, end)
      assert opcode is not None, line
      rest = line[opcode.end() :]
      operands = tuple(re.findall(r"%([\w.\-]+(?:#\d+)?)", rest[: _closed(rest, 0) - 1]))
      one = Instruction(found[2], line[start:end], opcode[1], operands, rest, bool(found[1]))
      computations[here].append(one)
  return Module(computations, entry)


@functools.cache
def arrays(text: str) -> list[Array]:
  """Of a type's text, tuples flattened; tokens are none."""
  found = []
  for dtype, sides, layout in _ARRAY.findall(text):
    if dtype != "token":
      space = re.search(r"S\((\d+)\)", layout)
      count = math.prod(int(side) for side in sides.split(",") if side)
      found.append(Array(_width(dtype) * count, int(space[1]) if space else 0))
  return found


def _closed(text: str, start: int) -> int:
  """Behind the bracket that closes what is open at `start`."""
  depth = 1
  for bracket in re.compile(r"[()]").finditer(text, start):
    depth += 1 if bracket[0] == "(" else -1
    if not depth:
      return bracket.end()
  raise ValueError(f"a bracket stays open: {text[:80]!r}")


def _width(dtype: str) -> int:
  digits = re.search(r"\d+", dtype)
  return max(1, int(digits[0]) // 8) if digits else 1
