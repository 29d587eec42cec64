"""Where examples come from: folders, tars and prepared datasets, each a sequence of named files.

A source has a length and gives `File(name, data)` for an index; it pickles, so that worker
processes can have it, and threads may share it. Nothing is kept in memory but names and places.
"""

import io
import os
import pathlib
import tarfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcodec.errors import CodecError

SOUNDS = frozenset((".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".w64"))
PICTURES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))
VIDEOS = frozenset((".mp4", ".mkv", ".webm", ".mov", ".avi"))


class File(NamedTuple):
  """A file of a source: what to call it, and its bytes."""

  name: str
  data: bytes


class Folder(Sequence[File]):
  """The files below a folder that have one of some suffixes, by their names."""

  def __init__(self, folder: pathlib.Path, suffixes: frozenset[str]):
    found = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    self._paths = sorted(path for path in found if path.is_file())

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index):
    path = self._paths[index]
    return File(str(path), path.read_bytes())


class Tar(Sequence[File]):
  """The members of an uncompressed tar that have one of some suffixes, in their order."""

  def __init__(self, path: pathlib.Path, suffixes: frozenset[str]):
    self._path, self._places = path, []
    try:
      with tarfile.open(path, "r:") as tar:
        for member in tar:
          if member.isfile() and pathlib.PurePath(member.name).suffix.lower() in suffixes:
            self._places.append((member.name, member.offset_data, member.size))
    except tarfile.TarError as error:
      raise CodecError(f"{path} is not an uncompressed tar: {error}") from None

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index):
    name, offset, size = self._places[index]
    # Opened anew: a shared position would tie threads together.
    handle = os.open(self._path, os.O_RDONLY)
    try:
      data = os.pread(handle, size, offset)
    finally:
      os.close(handle)
    return File(f"{self._path.name}/{name}", data)


class Prepared(Sequence[File]):
  """A split of a tensorflow-datasets directory of ArrayRecord files.

  Examples are files of their own ("name", "data"), or have a feature `Audio` or `Image`, of which
  the first stands for a file: a WAV, or the picture as it is stored.

  Raises:
    CodecError: if there is no such split, or tensorflow is needed and absent.
  """

  def __init__(self, directory: pathlib.Path, split: str = "train"):
    self._directory, self._split = directory, split
    self._open()

  def _open(self) -> None:
    import tensorflow_datasets as tfds

    try:
      builder = tfds.builder_from_directory(self._directory)
    except ModuleNotFoundError as error:
      raise CodecError(f"{self._directory} needs the package {error.name} to be read") from None
    if self._split not in builder.info.splits:
      raise CodecError(f"{self._directory} has no split {self._split}")
    features = dict(builder.info.features)
    sounds = [name for name, kind in features.items() if isinstance(kind, tfds.features.Audio)]
    pictures = [name for name, kind in features.items() if isinstance(kind, tfds.features.Image)]
    self._sound, self._picture = (next(iter(names), None) for names in (sounds, pictures))
    self._rate = features[self._sound].sample_rate if self._sound else None
    as_stored = {self._picture: tfds.decode.SkipDecoding()} if self._picture else None
    self._records = builder.as_data_source(split=self._split, decoders=as_stored)

  def __getstate__(self):
    return self._directory, self._split

  def __setstate__(self, state):
    self._directory, self._split = state
    self._open()

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index):
    if not 0 <= index < len(self):
      # The end of an iteration, which the reader would call a ValueError.
      raise IndexError(index)
    record, name = self.record(index), f"{self._directory}/{self._split}/{index}"
    if self._sound is not None:
      return File(name, _wav(np.asarray(record[self._sound]), self._rate, name))
    if self._picture is not None:
      return File(name, bytes(record[self._picture]))
    if not {"name", "data"} <= record.keys():
      raise CodecError(f"{self._directory} holds no sounds or pictures but {', '.join(record)}")
    return File(_text(record["name"]), bytes(record["data"]))

  def record(self, index: int) -> dict[str, Any]:
    """An example's features by name."""
    return self._records[index]


def _wav(samples: np.ndarray, rate: int | None, name: str) -> bytes:
  """A file of samples [N] or [N, C]: floats in [-1, 1], or whole numbers of 16 bits."""
  import soundfile

  if rate is None:
    raise CodecError(f"{name} does not say its sample rate")
  if whole := np.issubdtype(samples.dtype, np.integer):
    if samples.size and not -(2**15) <= samples.min() <= samples.max() < 2**15:
      raise CodecError(f"{name} has samples of more than 16 bits")
    samples = samples.astype(np.int16)
  file = io.BytesIO()
  soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16" if whole else "FLOAT")
  return file.getvalue()


def _text(value) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)


def open_source(path: str | pathlib.Path, suffixes: frozenset[str]) -> Sequence[File]:
  """The source that a path names: a prepared dataset, a folder or a tar.

  Raises:
    CodecError: if there is none, or it is empty.
  """
  path = pathlib.Path(path)
  source: Sequence[File]
  if path.is_dir() and (path / "dataset_info.json").is_file():
    source = Prepared(path)
  elif path.is_dir():
    source = Folder(path, suffixes)
  elif path.is_file():
    source = Tar(path, suffixes)
  else:
    raise CodecError(f"no data at {path}: neither a folder nor a tar")
  if not len(source):
    raise CodecError(f"{path} holds no files of the kinds {', '.join(sorted(suffixes))}")
  return source


def stream(file: File) -> io.BytesIO:
  """A file's bytes as decoders take them."""
  return io.BytesIO(file.data)
