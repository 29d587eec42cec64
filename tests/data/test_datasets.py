"""Datasets of tensorflow-datasets' own features, as its catalogue has them."""

import types

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds
from PIL import Image

from jaxcodec.data import sources
from jaxcodec.errors import CodecError


def _made(folder, features, examples):
  with tfds.core.registered.skip_registration():

    class Made(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version("1.0.0")

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

      def _split_generators(self, _):
        return {"train": enumerate(examples)}

      def _generate_examples(self):
        raise NotImplementedError  # `_split_generators` gives them.

  Made(data_dir=str(folder), file_format="array_record").download_and_prepare()
  return folder / "made" / "1.0.0"


def test_pictures_come_as_they_are_stored(tmp_path):
  stored = []
  for i in range(3):
    Image.fromarray(np.full((8, 6 + i, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    stored.append((tmp_path / f"{i}.png").read_bytes())
  features = {"label": tfds.features.ClassLabel(num_classes=3), "image": tfds.features.Image()}
  examples = ({"label": i, "image": str(tmp_path / f"{i}.png")} for i in range(3))
  source = sources.open_source(_made(tmp_path, features, examples), sources.PICTURES)
  assert sorted(file.data for file in source) == sorted(stored)
  assert len({file.name for file in source}) == 3


def test_a_dataset_of_neither_says_what_it_holds(tmp_path):
  directory = _made(tmp_path, {"text": tfds.features.Text()}, [{"text": "hello"}])
  with pytest.raises(CodecError, match="no sounds or pictures but text"):
    sources.open_source(directory, sources.SOUNDS)[0]
  with pytest.raises(CodecError, match="no split test"):
    sources.Prepared(directory, "test")


@pytest.fixture
def sounds(monkeypatch, tmp_path):
  """Makes a source of samples; the feature itself needs tensorflow, what it reads does not."""
  (tmp_path / "dataset_info.json").touch()

  def make(samples, rate):
    feature = object.__new__(tfds.features.Audio)
    feature._sample_rate = rate
    builder = types.SimpleNamespace(
      info=types.SimpleNamespace(features={"id": None, "speech": feature}, splits={"train": None}),
      as_data_source=lambda split, decoders: [{"id": b"a", "speech": samples}],
    )
    monkeypatch.setattr(tfds, "builder_from_directory", lambda _: builder)
    return sources.open_source(tmp_path, sources.SOUNDS)

  return make


@pytest.mark.parametrize(
  ("samples", "wave"),
  [
    (np.int64([0, 16384, -32768]), [[0], [0.5], [-1]]),
    (np.int16([[0, 8192], [16384, 0]]), [[0, 0.25], [0.5, 0]]),
    (np.float32([0, 0.1, -1]), [[0], [0.1], [-1]]),
  ],
  ids=["64 bits", "stereo", "floats"],
)
def test_sounds_come_as_files_of_their_samples(sounds, samples, wave):
  (file,) = sounds(samples, 16_000)
  found, rate = soundfile.read(sources.stream(file), dtype="float32", always_2d=True)
  assert rate == 16_000
  np.testing.assert_array_equal(found, np.float32(wave))


def test_sounds_that_cannot_be_told_are_refused(sounds):
  with pytest.raises(CodecError, match="does not say its sample rate"):
    sounds(np.int16([1]), None)[0]
  with pytest.raises(CodecError, match="more than 16 bits"):
    sounds(np.int64([40_000]), 16_000)[0]


def test_a_feature_that_needs_tensorflow_says_so(monkeypatch, tmp_path):
  (tmp_path / "dataset_info.json").touch()

  def fail(_):
    raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

  monkeypatch.setattr(tfds, "builder_from_directory", fail)
  with pytest.raises(CodecError, match="needs the package tensorflow"):
    sources.open_source(tmp_path, sources.SOUNDS)
