"""Reading Lyra's released files, and what is said when they are not there or not those."""

import shutil

import numpy as np
import pytest

import jaxcodec
from jaxcodec.audio.lyra import Lyra
from jaxcodec.audio.lyra_exact import LyraExact
from jaxcodec.hub.lyra import FILES


@pytest.fixture
def directory(data, tmp_path):
  for name in FILES:
    shutil.copy(data / "lyra" / name, tmp_path / name)
  return tmp_path


def error_of(directory):
  with pytest.raises(jaxcodec.CodecError) as caught:
    jaxcodec.load(directory)
  assert len(str(caught.value).splitlines()) == 1
  return str(caught.value)


def test_the_released_files_give_a_codec(data):
  codec = jaxcodec.load(data / "lyra")
  assert codec.module == Lyra()
  assert codec.bitrates == (3200, 6000, 9200)
  assert codec.codebook_sizes == (16,) * 46
  assert (codec.sample_rate, codec.hop_length, codec.channels) == (16_000, 320, 1)
  assert codec.streams
  # The sheet of the codec: mean norms of the first entries.
  norms = np.linalg.norm(codec.params["quantizer"]["codebooks"], axis=-1).mean(axis=-1)
  np.testing.assert_allclose(norms[:4], [39.7, 11.9, 10.1, 9.7], atol=0.05)


def test_the_exact_form_holds_the_integers_of_the_files(data):
  codec = jaxcodec.load(data / "lyra", exact=True)
  assert codec.module == LyraExact()
  exact, floats = codec.params["encoder"], jaxcodec.load(data / "lyra").params["encoder"]
  kernel = np.asarray(exact["down_3"]["kernel"])
  assert kernel.dtype == np.int8
  ratio = np.asarray(floats["down_3"]["kernel"]) / np.where(kernel == 0, 1, kernel)
  scale = np.abs(ratio).max(axis=(0, 1))
  np.testing.assert_allclose(kernel * scale, floats["down_3"]["kernel"], rtol=1e-6)
  np.testing.assert_array_equal(exact["down_0"]["kernel"], floats["down_0"]["kernel"])


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(directory, name):
  (directory / name).unlink()
  assert f"holds no {name}" in error_of(directory)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(directory, name):
  path = directory / name
  path.write_bytes(path.read_bytes()[:-1000])
  assert name in error_of(directory)


def test_files_that_are_swapped_are_named(directory):
  shutil.copy(directory / FILES[0], directory / FILES[2])
  assert "lyragan.tflite does not hold Lyra V2: at operator 1" in error_of(directory)


def test_a_weight_that_is_not_finite_is_named(directory, data):
  with np.load(data / "lyra" / "lyra_tensors.npz") as file:
    arrays = dict(file)
  key = next(k for k in arrays if k.startswith("lyragan") and arrays[k].shape == (128, 1, 1, 128))
  path, kernel = directory / "lyragan.tflite", arrays[key].astype("<f4").tobytes()
  assert path.read_bytes().count(kernel) == 1
  path.write_bytes(path.read_bytes().replace(kernel, b"\xff" * 4 + kernel[4:]))
  assert "not finite" in error_of(directory)


def test_a_codec_of_floats_has_no_exact_form():
  with pytest.raises(ValueError, match="codec speech-16khz has no exact form"):
    jaxcodec.load("speech-16khz", exact=True)


@pytest.mark.parametrize("exact", [False, True])
def test_flipped_bytes_are_refused_in_one_line_or_read(data, tmp_path, exact):
  rng, refused = np.random.default_rng(0), 0
  for name in FILES:
    shutil.copy(data / "lyra" / name, tmp_path / name)
  for i in range(12):
    name = FILES[i % len(FILES)]
    damaged = np.frombuffer((data / "lyra" / name).read_bytes(), np.uint8).copy()
    # Most bytes are weights, which any bits may be; some of so many meet what describes them.
    damaged[rng.integers(8, len(damaged), 100)] = rng.integers(0, 256, 100)
    (tmp_path / name).write_bytes(damaged)
    try:
      jaxcodec.load(tmp_path, exact=exact)
    except jaxcodec.CodecError as error:
      refused += len(str(error).splitlines())
    shutil.copy(data / "lyra" / name, tmp_path / name)
  assert 0 < refused <= 12
