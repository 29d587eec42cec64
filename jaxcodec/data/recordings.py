"""Whole recordings, as labels, texts and features belong to them."""

import numpy as np
import soundfile
import soxr

from jaxcodec.data import sources as sources_lib
from jaxcodec.data.health import Health, reason_of


def read(file: sources_lib.File, rate: int, health: Health) -> np.ndarray | None:
  """A recording's channels in one, float32 [T] at `rate` Hz; None, which `health` counts, if it is
  damaged."""
  try:
    x, found = soundfile.read(sources_lib.stream(file), dtype="float32", always_2d=True)
  except (soundfile.LibsndfileError, RuntimeError) as error:
    health.bad(file.name, reason_of(error))
    return None
  x = x.mean(axis=1)
  return x if found == rate else soxr.resample(x, found, rate)
