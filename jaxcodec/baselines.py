"""Opus and Codec 2 by the programs that are installed: what a codec is measured beside.

The programs take and give 16-bit samples, one process a file, so that their speeds count the start
of a process. The bytes are those of the whole file, Ogg's pages and Codec 2's header included. What
comes back late is moved to where it belongs: Opus by the lag of the largest correlation of the
waves at 48 kHz (at most 1 ms: its files say how long the delay is, but to a sample or two), Codec 2
by that of the envelopes (at most 0.1 s), as a vocoder keeps no phases.
"""

import dataclasses
import functools
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable

import numpy as np
import soxr
from scipy.signal import correlate

from jaxcodec.errors import CodecError

OPUS_KBPS = (6, 12, 24)  # a channel
CODEC2_MODES = {"3200": 3200, "2400": 2400, "1300": 1300, "700C": 700}  # bit/s
CODEC2_RATE = 8_000  # Hz, the only one it has

_OPUS_RATE = 48_000  # Hz, of what its decoders make
_LAG_SECONDS = 30  # of a signal are enough to find the lag


@dataclasses.dataclass(frozen=True, eq=False)
class Coded:
  """A wave that went through bytes.

  Attributes:
    wave: what came back, `[time, channels]`, of the original's length.
    num_bytes: size of the file between.
    encode_seconds: time taken to make the file.
    decode_seconds: time taken to read it.
    codes: integers `[frames, Q]`; None where there are no codebooks.
  """

  wave: np.ndarray
  num_bytes: int
  encode_seconds: float
  decode_seconds: float
  codes: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """Anything that makes a wave into a file and back, at one rate.

  Attributes:
    name: of the codec or program.
    bitrate: what was asked for, bit/s.
    sample_rate: Hz of what goes in and comes out.
    channels: of the same.
    code: from float32 `[time, channels]` within [-1, 1], time at least 1; raises `CodecError` if a
      program fails.
    codebook_sizes: entries of each codebook; empty if there are none.
  """

  name: str
  bitrate: float
  sample_rate: int
  channels: int
  code: Callable[[np.ndarray], Coded]
  codebook_sizes: tuple[int, ...] = ()


# (source, coded, back) -> how to encode, how to decode; source and back are raw 16-bit samples.
Commands = Callable[[str, str, str], tuple[list[str], list[str]]]


def find(formats: Iterable[tuple[int, int]]) -> tuple[list[System], list[str]]:
  """What is installed, and a line for each program that is not.

  Args:
    formats: (sample rate, channels) to run Opus at. Codec 2 runs at 8 kHz, mono.
  """
  found, missing = [], []
  encoders = _ffmpeg_encoders()
  opus = _opus_tools if _installed("opusenc", "opusdec") else _opus_ffmpeg
  if opus is _opus_tools or "libopus" in encoders:
    for sample_rate, channels in formats:
      for kbps in OPUS_KBPS:
        commands = functools.partial(opus, kbps * channels, sample_rate, channels)
        code = functools.partial(_opus, commands, sample_rate)
        found.append(System("opus", 1000 * kbps * channels, sample_rate, channels, code))
  else:
    missing.append("Opus is left out: neither opusenc and opusdec nor ffmpeg with libopus is here")
  codec2 = _codec2_tools if _installed("c2enc", "c2dec") else _codec2_ffmpeg
  if codec2 is _codec2_tools or "libcodec2" in encoders:
    for mode, bitrate in CODEC2_MODES.items():
      code = functools.partial(_codec2, functools.partial(codec2, mode))
      found.append(System("codec2", bitrate, CODEC2_RATE, 1, code))
  else:
    missing.append("Codec 2 is left out: neither c2enc and c2dec nor ffmpeg with libcodec2 is here")
  return found, missing


def best_lag(reference: np.ndarray, wave: np.ndarray, most: int) -> int:
  """Steps, at most `most` either way, by which `wave` `[time]` follows `reference` best.

  It is where the correlation is largest, over 30 s at 48 kHz at most.
  """
  length = min(len(reference), _LAG_SECONDS * _OPUS_RATE)
  x, y = reference[:length], _fitted(wave, length)
  most = min(most, length - 1)
  correlation = correlate(y, x, method="fft")[length - 1 - most : length + most]
  lags = np.arange(-most, most + 1)
  # Of equals the smallest: silence is nowhere in particular.
  return int(min(lags[correlation == correlation.max()], key=abs))


def _opus(commands: Commands, sample_rate: int, x: np.ndarray) -> Coded:
  coded = _code(commands, "opus", x)
  wanted = soxr.resample(x, sample_rate, _OPUS_RATE).mean(axis=1)
  # A constant offset would pull the lag to 0; Opus itself keeps none.
  lag = best_lag(wanted - wanted.mean(), coded.wave.mean(axis=1), _OPUS_RATE // 1000)
  y = soxr.resample(_moved(coded.wave, lag), _OPUS_RATE, sample_rate)
  return dataclasses.replace(coded, wave=_fitted(y, len(x)))


def _codec2(commands: Commands, x: np.ndarray) -> Coded:
  coded = _code(commands, "c2", x)
  mean = np.full(CODEC2_RATE // 50, 50 / CODEC2_RATE)  # over 20 ms
  # At least as long as the mean, which would set the length otherwise.
  length = max(len(x), len(mean))
  before, after = (
    np.convolve(np.abs(_fitted(wave, length)[:, 0]), mean, "same") for wave in (x, coded.wave)
  )
  lag = best_lag(before, after, CODEC2_RATE // 10)
  return dataclasses.replace(coded, wave=_fitted(_moved(coded.wave, lag), len(x)))


def _code(commands: Commands, suffix: str, x: np.ndarray) -> Coded:
  samples = np.clip(np.rint(x * 32768), -32768, 32767).astype("<i2")
  with tempfile.TemporaryDirectory() as folder:
    source, coded, back = (
      pathlib.Path(folder, name) for name in ("source.raw", f"coded.{suffix}", "back.raw")
    )
    source.write_bytes(samples.tobytes())
    encode, decode = commands(str(source), str(coded), str(back))
    encode_seconds, decode_seconds = _run(encode), _run(decode)
    num_bytes = coded.stat().st_size
    y = np.fromfile(back, "<i2").astype(np.float32).reshape(-1, x.shape[1]) / 32768
  return Coded(y, num_bytes, encode_seconds, decode_seconds)


def _opus_tools(kbps: int, sample_rate: int, channels: int, source: str, coded: str, back: str):
  raw = f"--raw --raw-bits 16 --raw-rate {sample_rate} --raw-chan {channels}".split()
  # By default half a kilobyte is kept free for a title.
  encode = ["opusenc", "--quiet", "--bitrate", str(kbps), "--padding", "0", *raw, source, coded]
  decode = ["opusdec", "--quiet", "--no-dither", "--rate", str(_OPUS_RATE), coded, back]
  return encode, decode


def _opus_ffmpeg(kbps: int, sample_rate: int, channels: int, source: str, coded: str, back: str):
  encode = [*_FFMPEG, *_raw(sample_rate, channels), "-i", source]
  encode += ["-c:a", "libopus", "-b:a", f"{kbps}k", coded]
  return encode, [*_FFMPEG, "-i", coded, *_raw(_OPUS_RATE, channels), back]


def _codec2_tools(mode: str, source: str, coded: str, back: str):
  return ["c2enc", mode, source, coded], ["c2dec", mode, coded, back]


def _codec2_ffmpeg(mode: str, source: str, coded: str, back: str):
  raw = _raw(CODEC2_RATE, 1)
  encode = [*_FFMPEG, *raw, "-i", source, "-c:a", "libcodec2", "-mode", mode, coded]
  return encode, [*_FFMPEG, "-i", coded, *raw, back]


def _raw(sample_rate: int, channels: int) -> list[str]:
  return ["-f", "s16le", "-ar", str(sample_rate), "-ac", str(channels)]


_FFMPEG = ("ffmpeg", "-v", "error", "-nostdin", "-y")


def _ffmpeg_encoders() -> str:
  if not _installed("ffmpeg"):
    return ""
  command = ["ffmpeg", "-hide_banner", "-encoders"]
  return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _installed(*programs: str) -> bool:
  return all(shutil.which(program) for program in programs)


def _run(command: list[str]) -> float:
  """Seconds that `command` took."""
  start = time.perf_counter()
  done = subprocess.run(
    command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
  )
  seconds = time.perf_counter() - start
  if done.returncode:
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    raise CodecError(f"{command[0]} failed: {lines[-1]}")
  return seconds


def _moved(wave: np.ndarray, lag: int) -> np.ndarray:
  """`wave` `[time, channels]`, `lag` steps earlier."""
  return wave[lag:] if lag >= 0 else np.pad(wave, ((-lag, 0), (0, 0)))


def _fitted(wave: np.ndarray, length: int) -> np.ndarray:
  """`wave` `[time, ...]`, cut to `length` steps or with zeros after its end."""
  missing = max(0, length - len(wave))
  return np.pad(wave[:length], [(0, missing)] + [(0, 0)] * (wave.ndim - 1))
