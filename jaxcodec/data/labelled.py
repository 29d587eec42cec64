"""Sounds and what kind each is, as examples: the loudest part of a recording, and its class."""

import csv
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxcodec.data import recordings, sources as sources_lib
from jaxcodec.data.health import Health
from jaxcodec.data.pipeline import Part
from jaxcodec.errors import CodecError

SAMPLE_RATE = 16_000
_BLOCK = 160  # Samples of 10 ms, whose energies are compared.


class Example(NamedTuple):
  """A sound and its class.

  Attributes:
    x: float32 [..., N] at 16 kHz, zeros after its end.
    label: int32 [...], the place among the names; -1 for none.
  """

  x: Any
  label: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled:
  """Recordings to learn from.

  Attributes:
    table: a CSV file with columns `file` (a name without folders), `split` and `class`.
    split: which rows are taken.
    names: of the classes; recordings of others are left out.
    seconds: of an example, from the recording's loudest point on, or its end if that is nearer.
    sources, weights, num_threads, num_workers, max_bad_share: see `data.sound.Sound`.
  """

  sources: tuple[str, ...] = ()
  table: str = ""
  split: str = "train"
  names: tuple[str, ...]
  seconds: float
  weights: tuple[float, ...] = ()
  num_threads: int = 4
  num_workers: int = 0
  max_bad_share: float = 0.01

  suffixes: ClassVar[frozenset[str]] = sources_lib.SOUNDS

  def samples(self) -> int:
    return round(self.seconds * SAMPLE_RATE)

  def shape(self, model) -> Example:
    """Of an example; the shapes of its parts."""
    del model
    return Example((self.samples(),), ())

  def check(self) -> None:
    if self.seconds <= 0:
      raise ValueError(f"data.seconds={self.seconds} must be positive")

  def parts(self, source: Sequence[sources_lib.File], model, health: Health) -> list[Part]:
    del model
    labels = read_table(self.table, self.split, self.names)
    files = (pathlib.PurePath(source[i].name).name for i in range(len(source)))
    entries = [(i, labels[name]) for i, name in enumerate(files) if name in labels]
    if not entries:
      raise ValueError(
        f"data.table={self.table!r} has a class for no recording of the source in {self.split!r}"
      )
    return [Part(entries, _Load(source, self.samples(), health))]


def read_table(path: str, split: str, names: Sequence[str]) -> dict[str, int]:
  """The label of each file of a split.

  Raises:
    CodecError: if the table is missing or lacks a column.
  """
  places = {name: place for place, name in enumerate(names)}
  try:
    with open(path, newline="", encoding="utf-8") as file:
      rows = [(row["file"], row["class"]) for row in csv.DictReader(file) if row["split"] == split]
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise CodecError(f"data.table={path!r} is no table of file, split, class: {error}") from None
  return {file: places[name] for file, name in rows if name in places}


def loudest(x: np.ndarray, size: int) -> np.ndarray:
  """`size` samples of x [T] from its loudest 10 ms on, or its last ones; zeros follow a short x."""
  blocks = x[: len(x) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
  start = int(np.square(blocks).sum(axis=1).argmax()) * _BLOCK if len(blocks) else 0
  part = x[max(0, min(start, len(x) - size)) :][:size]
  return np.pad(part, (0, size - len(part)))


class _Load:
  """Reads a recording; an object and not a closure, as workers unpickle it."""

  def __init__(self, source: Sequence[sources_lib.File], size: int, health: Health):
    self._source, self._size, self._health = source, size, health

  def __call__(self, entry: tuple[int, int], rng: np.random.Generator) -> Example:
    del rng  # Of a recording the same part is taken each time.
    index, label = entry
    x = recordings.read(self._source[index], SAMPLE_RATE, self._health)
    if x is None:
      # Silence of no kind.
      x, label = np.zeros(1, np.float32), -1
    return Example(loudest(x, self._size), np.int32(label))
