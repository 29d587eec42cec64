"""What a model of perception still makes of signals that went through codecs: score against rate.

A model is any function; it never sees the original, but for one run that says what it scores
without a codec. Source: Jacobellis et al., https://arxiv.org/abs/2401.07957 (MPQ).
"""

import dataclasses
import importlib
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from jaxcodec.baselines import System
from jaxcodec.errors import CodecError
from jaxcodec.picture_baselines import PictureSystem

ORIGINAL = "original"


class Item(NamedTuple):
  """A signal to be perceived.

  Attributes:
    name: to speak of it.
    signal: uint8 `[H, W, 3]`, or float32 `[time, channels]` as `perceive` and a codec need it.
    truth: what `score` compares with.
  """

  name: str
  signal: np.ndarray
  truth: Any


Score = Callable[[np.ndarray, Any], float]  # Of a decoded signal and its truth, 0 to 1.
Measure = Callable[[np.ndarray, np.ndarray], float]  # Of a signal and what became of it.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
  """A system at one setting.

  Attributes:
    system, setting: its name, and its quality or bitrate; None if there is but one.
    rate: all bits over all pixels, or all samples of all channels; 0 for the originals.
    score: mean over items, `nan` if all are missing.
    low, high: 95 % interval of the mean, by 1000 draws of the items.
    items: how many were scored.
    measures: means by name.
  """

  system: str
  setting: float | None
  rate: float
  score: float
  low: float
  high: float
  items: int
  measures: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Perception:
  """What `run` found.

  Attributes:
    original: score of the signals as they are.
    points: one for each system, in their order.
    missing: system, item and reason of each that came back in no shape to be scored.
  """

  original: Point
  points: tuple[Point, ...]
  missing: tuple[tuple[str, str, str], ...]

  def rate_for(self, system: str, share: float) -> float:
    """The least rate at which a system keeps a share of the original's score, between its settings
    by lines over the rate's logarithm; `nan` if none does."""
    points = sorted((p for p in self.points if p.system == system), key=lambda p: p.rate)
    wanted = share * self.original.score
    for number, point in enumerate(points):
      if point.score >= wanted:
        before = points[number - 1] if number else point
        part = (wanted - before.score) / (point.score - before.score) if number else 1.0
        low, high = math.log(before.rate), math.log(point.rate)
        return math.exp(low + part * (high - low))
    return math.nan

  def correlation(self, measure: str) -> float:
    """Spearman's, of a measure and the score over all points; `nan` for fewer than three."""
    pairs = [(p.measures[measure], p.score) for p in self.points if not math.isnan(p.score)]
    return float(stats.spearmanr(*zip(*pairs, strict=True))[0]) if len(pairs) > 2 else math.nan

  def to_json(self) -> dict[str, Any]:
    """Values for `json.dumps`; what is not a finite number is None."""
    points = [dataclasses.asdict(point) for point in (self.original, *self.points)]
    names = ("system", "item", "reason")
    return {
      "points": [_finite(point) for point in points],
      "missing": [dict(zip(names, row, strict=True)) for row in self.missing],
    }


def run(
  systems: Sequence[PictureSystem | System],
  items: Iterable[Item],
  score: Score,
  measures: Mapping[str, Measure] | None = None,
) -> Perception:
  """Sends every item through every system, and scores what comes back.

  A system that fails, or gives a signal of another size, scores nothing for that item, and neither
  are its bits counted.

  Raises:
    ValueError: if there is no item.
  """
  measures = measures or {}
  found: list[list[tuple[float, int, int, dict[str, float]]]] = [[] for _ in systems]
  missing, originals = [], []
  for item in items:
    originals.append((float(score(item.signal, item.truth)), 0, 1, dict[str, float]()))
    amount = math.prod(item.signal.shape[:2])
    for rows, system in zip(found, systems, strict=True):
      try:
        decoded, size = _carried(system, item.signal)
        if decoded.shape != item.signal.shape:
          raise CodecError(f"came back as {decoded.shape}, was {item.signal.shape}")
      except CodecError as error:
        missing.append((system.name, item.name, str(error)))
        continue
      values = {name: float(measure(item.signal, decoded)) for name, measure in measures.items()}
      rows.append((float(score(decoded, item.truth)), size, amount, values))
  if not originals:
    raise ValueError("there is nothing to perceive")
  points = tuple(
    _point(system.name, _setting(system), rows, tuple(measures))
    for system, rows in zip(systems, found, strict=True)
  )
  return Perception(_point(ORIGINAL, None, originals, ()), points, tuple(missing))


def model(name: str) -> Callable[..., Any]:
  """The function of a text such as "package.module:function".

  Raises:
    CodecError: if there is none.
  """
  module, colon, function = name.partition(":")
  try:
    found = getattr(importlib.import_module(module), function) if colon else None
  except (ImportError, AttributeError, ValueError) as error:
    raise CodecError(f"{name!r} names no function: {error}") from None
  if not callable(found):
    raise CodecError(f"{name!r} names no function: it is MODULE:FUNCTION")
  return found


def kind_of(path: pathlib.Path) -> str:
  """The truth about a file that lies in a folder of its kind: the folder's name."""
  return path.parent.name


def print_table(found: Perception, unit: str, *, stderr: bool = False) -> None:
  """Prints score against rate, and what rate keeps 95 % and 99 % of the score."""
  from rich.console import Console
  from rich.table import Table
  from rich.text import Text

  console = Console(highlight=False, stderr=stderr)
  console.width = 200  # No figure is cut; a longer name makes longer lines.
  table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  names = list(found.points[0].measures) if found.points else []
  for name in ("codec@setting", unit, "score", "95 %", *names):
    table.add_column(name, justify="left" if name == "codec@setting" else "right")
  for point in (found.original, *found.points):
    label = point.system if point.setting is None else f"{point.system}@{point.setting:g}"
    rate = f"{point.rate:.4f}" if point.rate else "-"
    values = [f"{point.measures[name]:.3f}" if name in point.measures else "" for name in names]
    interval = f"{point.low:.3f} to {point.high:.3f}"
    cells = (label, rate, f"{point.score:.3f}", interval, *values)
    table.add_row(*(Text(cell) for cell in cells))
  console.print(table)
  console.print(f"\nMeans over {found.original.items} items; rates: all bits over all of them.")
  for system in dict.fromkeys(point.system for point in found.points):
    rates = (f"{share:.0%} at {found.rate_for(system, share):.4f}" for share in (0.95, 0.99))
    console.print(Text(f"{system}: of the original's score {', '.join(rates)} {unit}"))
  for system, item, reason in found.missing:
    console.print(Text(f"{system}: {item} is missing: {reason}"))


def _finite(row: dict[str, Any]) -> dict[str, Any]:
  found = {}
  for name, value in row.items():
    if isinstance(value, dict):
      value = _finite(value)
    found[name] = None if isinstance(value, float) and not math.isfinite(value) else value
  return found


def _carried(system: PictureSystem | System, signal: np.ndarray) -> tuple[np.ndarray, int]:
  """What became of a signal, and the bytes between."""
  if isinstance(system, PictureSystem):
    picture = system.code(signal)
    return picture.pixels, picture.num_bytes
  sound = system.code(signal)
  return sound.wave, sound.num_bytes


def _setting(system: PictureSystem | System) -> float | None:
  return system.setting if isinstance(system, PictureSystem) else system.bitrate / 1000


def _point(name: str, setting: float | None, rows, measures: Sequence[str]) -> Point:
  if not rows:
    nothing = dict.fromkeys(measures, math.nan)
    return Point(
      system=name,
      setting=setting,
      rate=math.nan,
      score=math.nan,
      low=math.nan,
      high=math.nan,
      items=0,
      measures=nothing,
    )
  scores = np.array([row[0] for row in rows])
  drawn = np.random.default_rng(0).integers(len(scores), size=(1000, len(scores)))
  low, high = np.percentile(scores[drawn].mean(axis=1), (2.5, 97.5))
  return Point(
    system=name,
    setting=setting,
    rate=8 * sum(row[1] for row in rows) / sum(row[2] for row in rows),
    score=float(scores.mean()),
    low=float(low),
    high=float(high),
    items=len(rows),
    measures={each: float(np.mean([row[3][each] for row in rows])) for each in measures},
  )
