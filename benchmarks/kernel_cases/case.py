"""A kernel's sizes, with what runs here and what is compiled for TPUs."""

from collections.abc import Callable
from typing import NamedTuple


class HostCase(NamedTuple):
  """One size on this machine.

  Attributes:
    op, size: what the table's row says.
    forms: for each column ("ours", "plain JAX", a peer) a function that makes the inputs and
      returns what is called and waited for, without arguments.
    flops, moved: operations on float32 and bytes that the op cannot do without, inputs and outputs
      moved once; of all forms the roofline is of these.
  """

  op: str
  size: str
  forms: dict[str, Callable[[], Callable[[], object]]]
  flops: float
  moved: float


class TpuCase(NamedTuple):
  """One size as the TPU compilers see it.

  Attributes:
    op, size: what the table's row says.
    function, shapes: what is compiled, and the shapes of its arguments.
    kind: of the products, "bfloat16" or "int8".
    passes: how many products of that kind stand for one of the kernel's, on average; 6 for one of
      float32, 3 for one with one-hot rows, 0 where the work is no product.
    counted: FLOPs and bytes by hand, for a kernel of others that states neither.
  """

  op: str
  size: str
  function: Callable
  shapes: tuple
  kind: str
  passes: float
  counted: tuple[float, float] | None = None
