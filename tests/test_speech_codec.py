"""The bundled codec on real speech of speakers that it was not trained on."""

import io
import subprocess
import sys
import tarfile

import jax
import numpy as np
import pytest
import soundfile

import jaxcodec
from jaxcodec import metrics
from jaxcodec.codec import fingerprint
from jaxcodec.demo import bundled_samples
from jaxcodec.hub import load

pytestmark = pytest.mark.optimized


@pytest.fixture(scope="module")
def codec():
  return jaxcodec.load("speech-16khz")


def read_clips(data, count: int) -> list[np.ndarray]:
  with tarfile.open(data / "speech" / "speech_test.tar") as tar:
    names = [name for name in sorted(tar.getnames()) if name.endswith(".flac")][:count]
    files = [tar.extractfile(name).read() for name in names]
  return [soundfile.read(io.BytesIO(file), dtype="float32")[0] for file in files]


def test_its_weights_fit_in_six_megabytes():
  directory = load._BUNDLED / "speech-16khz"
  assert sum(path.stat().st_size for path in directory.iterdir()) <= 6e6


def test_its_files_name_the_weights_that_they_always_did(codec):
  """What the codec gains beside its weights must not make files unreadable."""
  assert fingerprint(codec).hex() == "79a07cc421ad890deadcadd55bdd2805"


@pytest.mark.slow
def test_the_learned_prior_saves_a_seventh_on_held_out_speakers(codec, data):
  x = np.concatenate(read_clips(data, 6))[None, : 20 * 16_000, None]
  files = [jaxcodec.compress(codec, x, learned=learned) for learned in (False, True)]
  np.testing.assert_array_equal(*(jaxcodec.decompress(file, codec) for file in files))
  assert len(files[1]) <= 6 / 7 * len(files[0])


@pytest.mark.slow
def test_speech_stays_intelligible_and_more_bits_help(codec, data):
  clips = read_clips(data, 5)
  wave = np.concatenate(clips)
  found = {}
  for bitrate in (1000, 3000, 6000):
    file = jaxcodec.compress(codec, wave[None, :, None], bitrate=bitrate)
    assert 8 * len(file) / (len(wave) / 16_000) < 1.05 * bitrate
    decoded = jaxcodec.decompress(file, codec)[0, :, 0]
    parts = np.split(decoded, np.cumsum([len(clip) for clip in clips])[:-1])
    scores = [metrics.stoi(*pair, 16_000) for pair in zip(clips, parts, strict=True)]
    found[bitrate] = np.mean(scores)
  assert found[6000] >= 0.80
  assert found[1000] < found[3000] < found[6000]


@pytest.mark.slow
def test_real_speech_has_the_very_codes_of_the_whole_however_it_comes(codec, data):
  """In chunks, as a row of a batch that is padded, and operation by operation."""
  clips = read_clips(data, 4)
  x = np.concatenate(clips)[: 48 * 16_000][None, :, None]
  encode, step = jax.jit(jaxcodec.encode), jax.jit(jaxcodec.encode_chunk)
  whole = np.asarray(encode(codec, x))
  for seconds in (0.02, 0.1, 0.5, 6):
    size = round(seconds * 16_000)
    state, parts = jaxcodec.init_stream(codec), []
    for start in range(0, x.shape[1], size):
      state, codes = step(codec, state, x[:, start : start + size])
      parts.append(np.asarray(codes))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
  lengths = np.array([len(clip) for clip in clips])
  batch = np.zeros((len(clips), lengths.max(), 1), np.float32)
  for row, clip in zip(batch, clips, strict=True):
    row[: len(clip), 0] = clip
  together = np.asarray(encode(codec, batch, length=lengths))
  for row, clip in zip(together, clips, strict=True):
    alone = np.asarray(encode(codec, clip[None, :, None]))[0]
    np.testing.assert_array_equal(row[: len(alone)], alone)
  with jax.disable_jit():
    eager = jaxcodec.encode(codec, x[:, : 5 * 16_000])
  np.testing.assert_array_equal(eager, whole[:, :250])


@pytest.mark.slow
def test_decoded_chunks_equal_the_decoded_whole(codec, data):
  (wave,) = read_clips(data, 1)
  codes = jax.jit(jaxcodec.encode)(codec, wave[None, : 8 * 16_000, None])
  whole = np.asarray(jax.jit(jaxcodec.decode)(codec, codes))
  state, parts = jaxcodec.init_stream(codec), []
  for start in range(0, codes.shape[1], 25):
    state, y = jax.jit(jaxcodec.decode_chunk)(codec, state, codes[:, start : start + 25])
    parts.append(np.asarray(y))
  np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_memory_does_not_grow_with_the_recording(tmp_path):
  sample, rate = soundfile.read(bundled_samples()[1], dtype="float32")
  length = 8 * 60 * rate
  long, coded, back = (str(tmp_path / name) for name in ("long.flac", "long.jxc", "long.wav"))
  soundfile.write(long, np.tile(sample, -(-length // len(sample)))[:length], rate)
  # getrusage would count the parent's peak in: a child starts as its copy.
  code = (
    "import re, sys; from jaxcodec import cli; status = cli.main(sys.argv[1:]);"
    "status_file = open('/proc/self/status').read();"
    "print(re.search(r'VmHWM:\\s*(\\d+)', status_file)[1]); sys.exit(status)"
  )
  for arguments in (("encode", long, coded), ("decode", coded, back)):
    line = [sys.executable, "-c", code, *arguments]
    out = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    # A minute takes 480 MB, most of it programs. What one layer gives for all of it is 490 more.
    assert int(out) / 1024 < 700
  assert soundfile.info(back).frames == length
