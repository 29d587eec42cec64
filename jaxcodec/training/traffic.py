"""Bytes that a compiled program reads from a chip's large memory and writes there.

What the compiler keeps in the fast memory beside the units that compute, as it writes in the
arrays' types, passes through none of it. XLA's own count takes every operand wherever it lies.
"""

from jaxcodec.training import hlo
from jaxcodec.training.hlo import Instruction, Module

_FREE = {
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "while",
  "conditional",
  "after-all",
  "opt-barrier",
  "partition-id",
  "iota",
}
_SLICES = {"slice", "dynamic-slice", "gather"}
_KERNEL = 'custom_call_target="tpu_custom_call"'


def traffic(module: Module) -> int:
  """Bytes of a step; those within loops count as often as the loop runs, of branches the most."""
  sizes: dict[str, int] = {}

  def measure(name: str) -> None:
    if name in sizes:
      return
    sizes[name] = _Computation(module, name).num_bytes()
    for one in module.computations.get(name, ()):
      for callee in (*one.called("body", "condition"), *one.branches()):
        measure(callee)

  measure(module.entry)
  times = module.times(sizes, applied=False)
  return sum(count * sizes[name] for name, count in times.items())


class _Computation:
  def __init__(self, module: Module, name: str):
    self.module = module
    self.instructions = module.computations.get(name, [])
    self.by_name = {i.name: i for i in self.instructions}

  def num_bytes(self) -> int:
    return sum(self._of(instruction) for instruction in self.instructions)

  def _of(self, one: Instruction) -> int:
    if one.opcode in _FREE or one.opcode.endswith("-done"):
      return 0
    if one.opcode == "custom-call" and _KERNEL not in one.rest:
      # The compiler's own: room for a buffer, or buffers beside each other taken as one.
      return 0
    if one.opcode == "copy-start":
      target, source = one.arrays()[:2]
      return _in_memory([target, source])
    if one.opcode in ("async-start", "call"):
      applied = one.called("calls", "to_apply")
      return sum(_Computation(self.module, name).num_bytes() for name in applied)
    if one.opcode in _SLICES:
      return self._slice(one, self._operand(one.operands[0]))
    if one.opcode == "dynamic-update-slice":
      return self._update(one, one.arrays())
    if one.opcode == "fusion":
      return self._fusion(one)
    if one.opcode.endswith("-start"):  # A collective's: what goes in and what comes out.
      return _in_memory(one.arrays())
    return _in_memory(one.arrays()) + sum(_in_memory(self._operand(o)) for o in one.operands)

  def _operand(self, name: str) -> list[hlo.Array]:
    name, _, index = name.partition("#")
    found = self.by_name[name].arrays()
    return [found[int(index)]] if index else found

  def _slice(self, one: Instruction, source: list[hlo.Array]) -> int:
    size = sum(array.num_bytes for array in one.arrays())
    return _in_memory(one.arrays()) + _in_memory([source[0]._replace(num_bytes=size)])

  def _update(self, one: Instruction, target: list[hlo.Array]) -> int:
    update = self._operand(one.operands[1])
    return _in_memory(update) + _in_memory([target[0]._replace(num_bytes=update[0].num_bytes)])

  def _fusion(self, one: Instruction) -> int:
    (name,) = one.called("calls")
    inner = _Computation(self.module, name)
    total = 0
    for index, operand in enumerate(one.operands):
      (array,) = self._operand(operand)
      total += _in_memory([array._replace(num_bytes=min(array.num_bytes, inner.read_of(index)))])
    for array, size in zip(one.arrays(), inner.written(), strict=True):
      total += _in_memory([array._replace(num_bytes=min(array.num_bytes, size))])
    return total

  def read_of(self, index: int) -> int:
    """Bytes that a fused computation reads of a parameter."""
    (parameter,) = (
      i for i in self.instructions if i.opcode == "parameter" and i.rest.startswith(f"{index})")
    )
    return self._read(parameter.name)

  def _read(self, name: str) -> int:
    size = sum(array.num_bytes for array in self.by_name[name].arrays())
    total = 0
    for user in self.instructions:
      places = [place for place, operand in enumerate(user.operands) if operand == name]
      for place in places:
        if user.opcode in _SLICES and place == 0:
          total += sum(array.num_bytes for array in user.arrays())
        elif user.opcode == "bitcast":
          total += self._read(user.name)
        elif user.opcode == "fusion":
          total += _Computation(self.module, user.called("calls")[0]).read_of(place)
        elif user.opcode == "tuple" or _continues(user):
          continue
        elif user.opcode != "dynamic-update-slice" or place != 0:
          total += size
    return min(total, size)

  def written(self) -> list[int]:
    """Bytes that a fused computation writes of each of its results."""
    (root,) = (i for i in self.instructions if i.is_root)
    if root.opcode == "tuple":
      return [size for operand in root.operands for size in self._written(operand)]
    return self._written(root.name)

  def _written(self, name: str) -> list[int]:
    name, _, index = name.partition("#")
    one = self.by_name[name]
    if one.opcode == "bitcast":
      return self._written(one.operands[0])
    if one.opcode == "dynamic-update-slice":
      return [self._operand(one.operands[1])[0].num_bytes]
    if one.opcode == "parameter" or _continues(one):
      sizes = [0] * len(one.arrays())
    elif one.opcode == "fusion":
      sizes = _Computation(self.module, one.called("calls")[0]).written()
    else:
      sizes = [array.num_bytes for array in one.arrays()]
    return [sizes[int(index)]] if index else sizes


def _continues(one: Instruction) -> bool:
  """Whether it only hands on what a collective is at, that computation goes along with."""
  return one.opcode == "custom-call" and _KERNEL not in one.rest


def _in_memory(found: list[hlo.Array]) -> int:
  return sum(array.num_bytes for array in found if array.space == 0)
