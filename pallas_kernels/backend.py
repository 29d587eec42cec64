"""The names by which a caller picks the form of a low-bit or attention op."""

from typing import Literal, get_args

from jax.experimental.pallas import tpu as pltpu

# "interpret" is the TPU kernel on any platform, for tests; "races" the same with race detection.
Backend = Literal["reference", "tpu", "interpret", "races"]


def interpret(backend: Backend):
  """What `pallas_call` takes as `interpret`.

  Raises:
    ValueError: if `backend` is none of the kernel's.
  """
  if backend == "tpu":
    return False
  if backend == "interpret":
    return True
  if backend == "races":
    return pltpu.InterpretParams(detect_races=True)
  raise ValueError(f"backend must be None or one of {get_args(Backend)}, got {backend!r}")
