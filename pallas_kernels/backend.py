"""The names by which a caller picks the form of a low-bit or attention op."""

from typing import Literal, get_args

from jax.experimental.pallas import tpu as pltpu

# "interpret" is the TPU kernel on any platform, for tests; "races" the same with race detection.
Backend = Literal["reference", "tpu", "interpret", "races"]
# Of ops that have a GPU kernel, too; "interpret_gpu" is that kernel on any platform, for tests.
WithGpu = Literal["reference", "tpu", "interpret", "races", "gpu", "interpret_gpu"]
# Whether the GPU kernel is interpreted, of the names that mean it.
GPU = {"gpu": False, "interpret_gpu": True}


def interpret(backend: str, known=Backend):
  """What `pallas_call` takes as `interpret`.

  Raises:
    ValueError: if `backend` is none of the TPU kernel's; `known` are the names the op takes.
  """
  if backend == "tpu":
    return False
  if backend == "interpret":
    return True
  if backend == "races":
    return pltpu.InterpretParams(detect_races=True)
  raise ValueError(f"backend must be None or one of {get_args(known)}, got {backend!r}")
