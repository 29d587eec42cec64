"""Sound files as streams of blocks at a codec's rate and channels."""

import pathlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from jaxcodec.errors import CodecError

_BLOCK_SECONDS = 10


class SoundReader:
  """A sound file, resampled and mixed to what a codec takes.

  Attributes:
    seconds: duration of the file.
    change: one line that says what is resampled or mixed; empty if nothing is.
  """

  def __init__(
    self, file: str | pathlib.Path | BinaryIO, name: str, sample_rate: int, channels: int
  ):
    try:
      self._file = soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, RuntimeError) as error:
      raise CodecError(f"{name} is not a sound file that can be read: {_reason(error)}") from None
    self._name, self._rate, self._channels = name, sample_rate, channels
    if channels > 1 and self._file.channels not in (1, channels):
      found = self._file.channels
      raise CodecError(
        f"{name} has {found} channels, the codec takes {channels}: mix it down first"
      )
    self.seconds = self._file.frames / self._file.samplerate
    self.change = self._describe()

  def blocks(self) -> Iterator[np.ndarray]:
    """float32 `[1, time, channels]` at the codec's rate, ten seconds or so at a time."""
    file, rate = self._file, self._file.samplerate
    resample = None
    if rate != self._rate:
      resample = soxr.ResampleStream(
        rate, self._rate, self._channels, dtype="float32", quality="HQ"
      )
    with file:
      while True:
        try:
          block = file.read(_BLOCK_SECONDS * rate, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
          raise CodecError(f"{self._name} is damaged: {_reason(error)}") from None
        if not np.isfinite(block).all():
          raise CodecError(f"{self._name} holds samples that are not finite")
        last = block.shape[0] < _BLOCK_SECONDS * rate
        block = self._mix(block)
        if resample is not None:
          block = resample.resample_chunk(block, last=last).reshape(-1, self._channels)
        if block.shape[0]:
          yield block[None]
        if last:
          return

  def _mix(self, block: np.ndarray) -> np.ndarray:
    if block.shape[1] == self._channels:
      return block
    if self._channels == 1:
      return block.mean(axis=1, keepdims=True)
    return np.repeat(block, self._channels, axis=1)

  def _describe(self) -> str:
    found, changes = self._file, []
    if found.samplerate != self._rate:
      changes.append(f"resampled from {found.samplerate} to {self._rate} Hz")
    if found.channels != self._channels:
      mixed = "the mean of its channels" if self._channels == 1 else "its one channel copied"
      changes.append(f"{_channels(found.channels)} to {_channels(self._channels)} ({mixed})")
    return ", ".join(changes)


def write_sound(
  file: pathlib.Path | BinaryIO,
  kind: str,
  blocks: Iterable[np.ndarray],
  sample_rate: int,
  channels: int,
) -> None:
  """Writes blocks `[1, time, channels]` in the format `kind`, with its usual sample type.

  Raises:
    CodecError: if the format cannot hold this rate or number of channels.
  """
  try:
    sound = soundfile.SoundFile(file, "w", sample_rate, channels, format=kind)
  except soundfile.LibsndfileError as error:
    raise CodecError(
      f"{kind} cannot hold {_channels(channels)} at {sample_rate} Hz: {_reason(error)}"
    ) from None
  with sound:
    for block in blocks:
      sound.write(np.clip(block[0], -1, 1))


def file_format(path: pathlib.Path) -> str:
  """soundfile's name of the format that a path's suffix asks for.

  Raises:
    ValueError: if there is none.
  """
  suffix = path.suffix[1:].upper()
  kind = {"OPUS": "OGG", "AIF": "AIFF"}.get(suffix, suffix)
  if kind == "RAW" or kind not in soundfile.available_formats():
    raise ValueError(f"{path.name}: no sound format of that name; use .wav, .flac, .ogg or .mp3")
  return kind


def _channels(count: int) -> str:
  return {1: "mono", 2: "stereo"}.get(count, f"{count} channels")


def _reason(error: Exception) -> str:
  text = getattr(error, "error_string", None) or str(error)
  return text.splitlines()[0].rstrip(". ") if text else type(error).__name__
