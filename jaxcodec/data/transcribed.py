"""Speech with its text as examples: whole recordings, the labels of their letters."""

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

LETTERS = (" ", *"abcdefghijklmnopqrstuvwxyz", "'")
SAMPLE_RATE = 16_000


class Utterance(NamedTuple):
  """A recording and what is said.

  Attributes:
    x: float32 [..., N] at 16 kHz, zeros after its end.
    length: int32 [...], samples.
    labels: int32 [..., U], places in `LETTERS`, -1 after the end.
  """

  x: Any
  length: Any
  labels: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transcribed:
  """Recordings to learn from; those without text, or longer than an example, are left out.

  Attributes:
    table: a CSV file with columns `file` (a name without folders), `seconds` and `text`.
    seconds, letters: of an example, at most.
    sources, weights, num_threads, num_workers, max_bad_share: see `data.sound.Sound`.
  """

  sources: tuple[str, ...] = ()
  table: str = ""
  seconds: float
  letters: int
  weights: tuple[float, ...] = ()
  num_threads: int = 4
  num_workers: int = 0
  max_bad_share: float = 0.01

  suffixes: ClassVar[frozenset[str]] = sources_lib.SOUNDS

  def samples(self) -> int:
    return round(self.seconds * SAMPLE_RATE)

  def shape(self, model) -> Utterance:
    """Of an example; the shapes of its parts."""
    del model
    return Utterance((self.samples(),), (), (self.letters,))

  def check(self) -> None:
    if self.seconds <= 0 or self.letters < 1:
      raise ValueError(f"data.seconds={self.seconds} data.letters={self.letters} must be positive")

  def parts(self, source: Sequence[sources_lib.File], model, health: Health) -> list[Part]:
    del model
    texts = read_table(self.table)
    names = (pathlib.PurePath(source[i].name).name for i in range(len(source)))
    entries = [
      (i, labels)
      for i, name in enumerate(names)
      if name in texts
      and texts[name][0] <= self.seconds
      and 0 < len(labels := spelled(texts[name][1])) <= self.letters
    ]
    if not entries:
      raise ValueError(f"data.table={self.table!r} has text for no recording of the source")
    return [Part(entries, _Load(source, self, health))]


def read_table(path: str) -> dict[str, tuple[float, str]]:
  """Seconds and text of each file of a table.

  Raises:
    CodecError: if it is missing or lacks a column.
  """
  try:
    with open(path, newline="", encoding="utf-8") as file:
      return {
        row["file"]: (float(row["seconds"]), row["text"])
        for row in csv.DictReader(file)
        if row["text"]
      }
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise CodecError(f"data.table={path!r} is no table of file, seconds, text: {error}") from None


def spelled(text: str) -> list[int]:
  """Labels of a text's letters, small or not; other characters are left out."""
  return [LETTERS.index(letter) for letter in text.lower() if letter in LETTERS]


class _Load:
  """Reads a recording; an object and not a closure, as workers unpickle it."""

  def __init__(self, source: Sequence[sources_lib.File], config: Transcribed, health: Health):
    self._source, self._config, self._health = source, config, health

  def __call__(self, entry: tuple[int, list[int]], rng: np.random.Generator) -> Utterance:
    del rng  # A recording is taken whole.
    index, labels = entry
    size = self._config.samples()
    x = recordings.read(self._source[index], SAMPLE_RATE, self._health)
    if x is None:
      # Silence that says nothing.
      x, labels = np.zeros(1, np.float32), []
    x = x[:size]
    padded = np.full(self._config.letters, -1, np.int32)
    padded[: len(labels)] = labels
    return Utterance(np.pad(x, (0, size - len(x))), np.int32(len(x)), padded)
