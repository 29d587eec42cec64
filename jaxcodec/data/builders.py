"""Folders and tars as tensorflow-datasets directories: ArrayRecord files, read without TensorFlow.

An example is `{"name": text, "data": bytes}`, the file as it was: sound, pictures and videos stay
encoded, so a record is as small as its file, and crops are decoded when they are drawn.
"""

import io
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxcodec.data import sources
from jaxcodec.data.health import Health, reason_of
from jaxcodec.errors import CodecError


class Kind(NamedTuple):
  """What sort of files a dataset holds.

  Attributes:
    suffixes: of their names.
    check: raises an exception if a file cannot be decoded.
  """

  suffixes: frozenset[str]
  check: Callable[[io.BytesIO], None]


def _check_sound(data: io.BytesIO) -> None:
  import soundfile

  with soundfile.SoundFile(data) as sound:
    frames = sum(len(block) for block in sound.blocks(1 << 16, dtype="float32"))
  if frames == 0:
    raise ValueError("no samples")


def _check_picture(data: io.BytesIO) -> None:
  from PIL import Image

  with Image.open(data) as picture:
    picture.load()


def _check_video(data: io.BytesIO) -> None:
  import av

  with av.open(data, "r") as video:
    if next(video.decode(video=0), None) is None:
      raise ValueError("no frames")


KINDS = {
  "sound": Kind(sources.SOUNDS, _check_sound),
  "picture": Kind(sources.PICTURES, _check_picture),
  "video": Kind(sources.VIDEOS, _check_video),
}


def prepare(
  source: Sequence[sources.File],
  name: str,
  kind: Kind,
  data_dir: pathlib.Path,
  *,
  max_bad_share: float = 0.01,
  progress: Callable[[Sequence[int]], Iterator[int]] = iter,
) -> tuple[pathlib.Path, list[str]]:
  """Writes the files of `source` that can be decoded as the split "train" of a dataset.

  Args:
    name: of the dataset, in small letters, digits and underscores.
    data_dir: where datasets lie; this one becomes `data_dir/name/1.0.0`.
    progress: wraps the indices, to show how far they are.

  Returns:
    Its directory, and the names of the files that were left out.

  Raises:
    CodecError: if too many files cannot be decoded, or the dataset is there already.
    ValueError: if the name is none.
  """
  import tensorflow_datasets as tfds

  if not name.isidentifier() or name != name.lower():
    raise ValueError(f"{name!r} is no name of a dataset: small letters, digits and underscores")
  directory = data_dir / name / "1.0.0"
  if directory.exists():
    raise CodecError(f"{directory} is there already")
  health = Health(max_bad_share)

  def examples():
    for index in progress(range(len(source))):
      file = source[index]
      try:
        kind.check(sources.stream(file))
      except Exception as error:  # Of any kind: decoders raise what they like.
        health.bad(file.name, reason_of(error))
        continue
      health.good()
      yield index, {"name": file.name, "data": file.data}

  # Else the name would be taken for as long as the process lives.
  with tfds.core.registered.skip_registration():

    class Files(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version("1.0.0")

      def _info(self):
        data = tfds.features.Tensor(shape=(), dtype=np.object_)
        features = tfds.features.FeaturesDict({"name": tfds.features.Text(), "data": data})
        return tfds.core.DatasetInfo(builder=self, features=features)

      def _split_generators(self, _):
        return {"train": examples()}

      def _generate_examples(self):
        raise NotImplementedError  # `_split_generators` gives them.

    Files.name = name
  tfds.disable_progress_bar()
  builder = Files(data_dir=str(data_dir), file_format="array_record")
  builder.download_and_prepare()
  return directory, health.names
