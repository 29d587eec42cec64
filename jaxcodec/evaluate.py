"""Codecs over a folder of recordings: code each to real bytes, decode, measure, sum up.

A recording is brought to a system's rate and channels once, and what comes back is compared with
that; figures of different rates compare only where the measure says so (docs/metrics.md).
"""

import dataclasses
import functools
import importlib.util
import itertools
import math
import pathlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxcodec import bitstream, chunked, metrics
from jaxcodec.audio.files import SoundReader, file_format
from jaxcodec.baselines import Coded, System
from jaxcodec.codec import Codec
from jaxcodec.entropy import container
from jaxcodec.errors import CodecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
  """What a system made of some sound; what is not defined for it is `nan`.

  Attributes:
    system: name of the codec or program.
    bitrate: what was asked for, bit/s.
    sample_rate: Hz, at which it was measured.
    seconds: duration.
    num_bytes: size of what was coded.
    kbps: 1000 bit/s, of that size.
    si_sdr: dB.
    mel_distance: `metrics.mel_distance`.
    stft_distance: `metrics.stft_distance`.
    stoi: `metrics.stoi`.
    pesq: `metrics.pesq`: narrowband at 8 kHz, else wideband; not below 16 kHz otherwise.
    encode_speed: seconds of sound a second.
    decode_speed: the same.
  """

  system: str
  bitrate: float
  sample_rate: int
  seconds: float
  num_bytes: int
  kbps: float
  si_sdr: float
  mel_distance: float
  stft_distance: float
  stoi: float
  pesq: float
  encode_speed: float
  decode_speed: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(Measures):
  """One file through one system.

  Attributes:
    file: path of the recording.
  """

  file: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary(Measures):
  """All files through one system.

  `kbps` is of all bytes over all seconds and the speeds are of all seconds over all time; the
  measures are means over the files where they are defined.

  Attributes:
    files: how many.
    codebook_used: share of the entries that occurred, per codebook; None without codebooks.
    perplexity: of the codes of all files together, per codebook; None without codebooks.
  """

  files: int
  codebook_used: tuple[float, ...] | None
  perplexity: tuple[float, ...] | None


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What `run` found.

  Attributes:
    means: one for each system, in their order.
    files: one for each file and system.
    skipped: path and reason of each file that could not be read.
  """

  means: tuple[Summary, ...]
  files: tuple[Score, ...]
  skipped: tuple[tuple[str, str], ...]

  def to_json(self) -> dict[str, Any]:
    """Values for `json.dumps`; what is not a finite number is None."""
    return {
      "means": [_finite(dataclasses.asdict(row)) for row in self.means],
      "files": [_finite(dataclasses.asdict(row)) for row in self.files],
      "skipped": [{"file": file, "reason": reason} for file, reason in self.skipped],
    }


def sound_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files below `folder` whose suffix is that of a sound format, by name.

  Raises:
    CodecError: if there is none.
  """
  found = [path for path in sorted(folder.rglob("*")) if path.is_file() and _names_sound(path)]
  if not found:
    raise CodecError(f"{folder} holds no sound files")
  return found


def codec_systems(name: str, codec: Codec, bitrate: int | None = None) -> list[System]:
  """A codec at each of its rates, or at `bitrate` alone.

  The first run of a shape is not timed: it compiles.

  Raises:
    ValueError: if the codec has no such bitrate.
  """
  if bitrate is not None and bitrate not in codec.bitrates:
    raise ValueError(f"codec {name} has no bitrate {bitrate} bit/s")
  return [
    System(
      name,
      rate,
      codec.sample_rate,
      codec.channels,
      functools.partial(_code, codec, rate, set()),
      codec.codebook_sizes,
    )
    for rate in ([bitrate] if bitrate else codec.bitrates)
  ]


def run(systems: Sequence[System], sources: Iterable[pathlib.Path]) -> Evaluation:
  """Sends every source through every system.

  A source that cannot be read, or not in the form that one of the systems takes, is skipped for
  all, so that all have the same files.

  Raises:
    CodecError: if no source can be read, or a program fails.
  """
  formats = dict.fromkeys((system.sample_rate, system.channels) for system in systems)
  scores: list[list[Score]] = [[] for _ in systems]
  codes: list[list[np.ndarray]] = [[] for _ in systems]
  skipped = []
  for source in sources:
    try:
      waves = {form: read_wave(source, *form) for form in formats}
    except CodecError as error:
      skipped.append((str(source), str(error)))
      continue
    for i, system in enumerate(systems):
      x = waves[system.sample_rate, system.channels]
      coded = system.code(x)
      scores[i].append(_score(system, str(source), x, coded))
      if coded.codes is not None:
        codes[i].append(coded.codes)
  if not any(scores):
    first = f"; the first: {skipped[0][1]}" if skipped else ""
    raise CodecError(f"none of {len(skipped)} sound files can be read{first}")
  means = (_summary(*of_one) for of_one in zip(systems, scores, codes, strict=True))
  return Evaluation(tuple(means), tuple(itertools.chain(*scores)), tuple(skipped))


def pesq_is_installed() -> bool:
  """Whether there will be figures of PESQ."""
  return importlib.util.find_spec("pesq") is not None


def print_table(evaluation: Evaluation, *, stderr: bool = False) -> None:
  """Prints the means: coloured in a terminal, plain text elsewhere."""
  from rich.console import Console
  from rich.table import Table
  from rich.text import Text

  console = Console(highlight=False, stderr=stderr)
  gap = 1 if console.is_terminal and console.width < 90 else 2
  console.width = 200  # No figure is cut; a longer name makes longer lines.
  arrows = ("\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}")
  up, down = arrows if console.encoding.startswith("utf") else ("+", "-")
  table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
  table.add_column("codec@kbit/s")
  for name, unit, better in _COLUMNS:
    arrow = {1: up, -1: down, 0: ""}[better]
    table.add_column(f"{name}\n{unit} {arrow}".rstrip(), justify="right")
  for row in evaluation.means:
    # Text, because a name in square brackets is not markup.
    label = Text(f"{row.system}@{row.bitrate / 1000:g}")
    table.add_row(label, *(Text(cell) for cell in _cells(row)))
  console.print(table)
  first = evaluation.means[0]
  lines = (
    f"Means over {first.files} files, {first.seconds:.1f} s; {up} more is better, {down} less.",
    "kbit/s: all bytes over all seconds. use: entries of the codebooks that occur.",
    "encode, decode: multiples of real time. PESQ: wideband, at 8 kHz narrowband (nb).",
  )
  console.print("\n" + "\n".join(lines))


# Name, unit, and whether more (1) or less (-1) is better.
_COLUMNS = (
  ("rate", "kHz", 0),
  ("kbit/s", "", -1),
  ("SI-SDR", "dB", 1),
  ("mel", "", -1),
  ("STFT", "", -1),
  ("STOI", "", 1),
  ("PESQ", "", 1),
  ("use", "", 1),
  ("encode", "", 1),
  ("decode", "", 1),
)


def _cells(row: Summary) -> list[str]:
  def text(value: float, form: str, unit: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}{unit}"

  return [
    f"{row.sample_rate / 1000:g}",
    text(row.kbps, ".2f"),
    text(row.si_sdr, ".1f"),
    text(row.mel_distance, ".2f"),
    text(row.stft_distance, ".2f"),
    text(row.stoi, ".3f"),
    text(row.pesq, ".2f", " nb" if row.sample_rate == 8_000 else ""),
    text(_mean(list(row.codebook_used or ())), ".0%"),
    text(row.encode_speed, ".0f", "x"),
    text(row.decode_speed, ".0f", "x"),
  ]


def _code(codec: Codec, bitrate: int, warm: set[tuple[int, ...]], x: np.ndarray) -> Coded:
  frames = chunked.chunk_frames(codec, bitstream.CHUNK_SECONDS)
  shape = chunked.shapes(codec, len(x), frames)
  for _ in range(1 if shape in warm else 2):
    start = time.perf_counter()
    data = bitstream.compress(codec, x[None], bitrate=bitrate)
    middle = time.perf_counter()
    y = bitstream.decompress(data, codec)[0]
    end = time.perf_counter()
  warm.add(shape)
  stream = container.sound_stream(container.read_header(data), 0)
  prior = np.asarray(codec.prior)[: len(stream.codebook_sizes)]
  codes = np.concatenate([codes[0] for codes, _ in container.read_chunks(data, prior)])
  return Coded(y, len(data), middle - start, end - middle, codes)


def _score(system: System, file: str, x: np.ndarray, coded: Coded) -> Score:
  rate, y = system.sample_rate, coded.wave
  seconds = len(x) / rate
  return Score(
    system=system.name,
    bitrate=system.bitrate,
    file=file,
    sample_rate=rate,
    seconds=seconds,
    num_bytes=coded.num_bytes,
    kbps=metrics.bitrate(coded.num_bytes, seconds) / 1000,
    si_sdr=metrics.si_sdr(x, y),
    mel_distance=metrics.mel_distance(x, y, rate),
    stft_distance=metrics.stft_distance(x, y),
    stoi=_or_nan(metrics.stoi, x, y, rate),
    pesq=_or_nan(metrics.pesq, x, y, rate) if _has_pesq(rate) else math.nan,
    encode_speed=seconds / coded.encode_seconds,
    decode_speed=seconds / coded.decode_seconds,
  )


def _summary(system: System, scores: list[Score], codes: list[np.ndarray]) -> Summary:
  seconds = sum(score.seconds for score in scores)
  num_bytes = sum(score.num_bytes for score in scores)
  used = perplexity = None
  if codes:
    joined = np.concatenate(codes)
    use = metrics.codebook_use(joined, system.codebook_sizes[: joined.shape[1]])
    used, perplexity = tuple(use.used.tolist()), tuple(use.perplexity.tolist())
  return Summary(
    system=system.name,
    bitrate=system.bitrate,
    sample_rate=system.sample_rate,
    files=len(scores),
    seconds=seconds,
    num_bytes=num_bytes,
    kbps=metrics.bitrate(num_bytes, seconds) / 1000,
    si_sdr=_mean([score.si_sdr for score in scores]),
    mel_distance=_mean([score.mel_distance for score in scores]),
    stft_distance=_mean([score.stft_distance for score in scores]),
    stoi=_mean([score.stoi for score in scores]),
    pesq=_mean([score.pesq for score in scores]),
    encode_speed=seconds / sum(score.seconds / score.encode_speed for score in scores),
    decode_speed=seconds / sum(score.seconds / score.decode_speed for score in scores),
    codebook_used=used,
    perplexity=perplexity,
  )


def read_wave(source: pathlib.Path, sample_rate: int, channels: int) -> np.ndarray:
  """A recording as float32 `[time, channels]` at a rate, in Hz.

  Raises:
    CodecError: if it cannot be read, or holds nothing.
  """
  reader = SoundReader(source, str(source), sample_rate, channels)
  blocks = [block[0] for block in reader.blocks()]
  if not blocks:
    raise CodecError(f"{source} holds no samples")
  return np.concatenate(blocks)


def _names_sound(path: pathlib.Path) -> bool:
  try:
    return bool(file_format(path))
  except ValueError:
    return False


def _has_pesq(sample_rate: int) -> bool:
  # At other rates below 16 kHz a sound lacks what wideband PESQ listens for.
  return pesq_is_installed() and (sample_rate == 8_000 or sample_rate >= 16_000)


def _or_nan(metric, x: np.ndarray, y: np.ndarray, sample_rate: int) -> float:
  try:
    return metric(x, y, sample_rate)
  except ValueError:  # Too short, or silent: the measure is not defined.
    return math.nan


def _mean(values: list[float]) -> float:
  defined = [value for value in values if not math.isnan(value)]
  return float(np.mean(defined)) if defined else math.nan


def _finite(row: dict[str, Any]) -> dict[str, Any]:
  return {
    name: None if isinstance(value, float) and not math.isfinite(value) else value
    for name, value in row.items()
  }
