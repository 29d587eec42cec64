"""How far a layer's output looks: what random access has to decode besides what it was asked for.

A reach is followed from a network's output to its input; each function here takes that of a layer's
output steps and returns that of its input steps.
"""

from typing import NamedTuple


class Reach(NamedTuple):
  """Steps that an output step depends on besides its own.

  Attributes:
    before: earlier steps; None for all of them.
    after: later steps.
  """

  before: int | None = 0
  after: int = 0


def conv(reach: Reach, kernel_size: int, dilation: int = 1, *, causal: bool = True) -> Reach:
  """Through a convolution of stride 1, see `layers.conv.Conv1d`."""
  past = (kernel_size - 1) * dilation
  right = 0 if causal else past // 2
  return Reach(_add(reach.before, past - right), reach.after + right)


def conv_transpose(reach: Reach, kernel_size: int, stride: int, *, causal: bool = True) -> Reach:
  """Through a transposed convolution, see `layers.conv.ConvTranspose1d`."""
  excess = kernel_size - stride
  delay = 0 if causal else excess - excess // 2
  # Output n is n + delay before the cut, where it meets inputs i with i * stride <= n + delay.
  after = (stride - 1 + reach.after + delay) // stride
  if reach.before is None:
    return Reach(None, after)
  return Reach((reach.before + kernel_size - 1 - delay) // stride, after)


def recurrence(reach: Reach) -> Reach:
  """Through an LSTM, which remembers without end."""
  return reach._replace(before=None)


def window(reach: Reach, steps: int) -> Reach:
  """Through attention to the last `steps` steps, its own included."""
  return reach._replace(before=_add(reach.before, steps - 1))


def _add(before: int | None, steps: int) -> int | None:
  return None if before is None else before + steps
