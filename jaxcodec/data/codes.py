"""Codes as examples: runs of frames of what `launch.tokenize` wrote, int32 [F, Q]."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from jaxcodec.data import sources as sources_lib
from jaxcodec.data.health import Health
from jaxcodec.data.pipeline import Part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codes:
  """Datasets of codes to learn from.

  Attributes:
    sources: directories that `launch.tokenize` wrote, of one codec.
    weights, num_threads, num_workers, max_bad_share: see `data.sound.Sound`.
    read, written: frames that a model is given, and that it foretells, one after the other.
  """

  sources: tuple[str, ...] = ()
  weights: tuple[float, ...] = ()
  read: int
  written: int
  num_threads: int = 4
  num_workers: int = 0
  max_bad_share: float = 0.0

  suffixes: ClassVar[frozenset[str]] = frozenset()

  def shape(self, model) -> tuple[int, ...]:
    return self.read + self.written, model.num_codebooks

  def check(self) -> None:
    if min(self.read, self.written) < 1:
      raise ValueError(f"data.read={self.read} data.written={self.written} must be at least 1")

  def parts(self, source: Sequence[sources_lib.File], model, health: Health) -> list[Part]:
    if not isinstance(source, sources_lib.Prepared) or "codes" not in source.record(0):
      raise ValueError("data.sources must be what launch.tokenize wrote")
    codes = source.record(0)["codes"]
    if codes.shape[1] < model.num_codebooks:
      raise ValueError(f"codes of {codes.shape[1]} codebooks for a model of {model.num_codebooks}")
    return [Part(range(len(source)), _Load(source, self.shape(model)))]


class _Load:
  """Draws a run of frames; an object and not a closure, as workers unpickle it."""

  def __init__(self, source: sources_lib.Prepared, shape: tuple[int, ...]):
    self._source, self._shape = source, shape

  def __call__(self, index: int, rng: np.random.Generator) -> np.ndarray:
    frames, stages = self._shape
    codes = np.asarray(self._source.record(index)["codes"], np.int32)[:, :stages]
    start = rng.integers(0, max(1, len(codes) - frames + 1))
    codes = codes[start : start + frames]
    # Recordings that are shorter end before the example does.
    return np.pad(codes, ((0, frames - len(codes)), (0, 0)), constant_values=-1)
