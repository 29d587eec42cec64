"""STOI against PyPI's pystoi, on made-up signals and on read speech."""

import io
import tarfile

import numpy as np
import pytest
import soundfile

from jaxcodec.metrics import stoi

pystoi = pytest.importorskip("pystoi", reason="pystoi comes with the parity extra")

pytestmark = pytest.mark.parity

# The same arithmetic in another order; what is left is float64 rounding.
TOLERANCE = 1e-9


def modulated_noise(sample_rate, seconds, seed):
  """Noise in syllables of a quarter second, with pauses that count as silent."""
  rng = np.random.default_rng(seed)
  time = np.arange(int(sample_rate * seconds)) / sample_rate
  envelope = np.maximum(np.sin(2 * np.pi * 2 * time), 0) ** 2
  return 0.1 * envelope * rng.standard_normal(len(time))


@pytest.mark.parametrize("sample_rate", [8_000, 10_000, 16_000, 22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("snr_db", [-10, 5, 20])
def test_modulated_noise_equals_pystoi(sample_rate, snr_db):
  x = modulated_noise(sample_rate, 2.5, seed=0)
  noise = np.random.default_rng(1).standard_normal(len(x))
  y = x + noise * np.sqrt(np.mean(x**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
  want = pystoi.stoi(x, y, sample_rate, extended=False)
  assert stoi(x, y, sample_rate) == pytest.approx(want, abs=TOLERANCE)


@pytest.mark.parametrize("extra", [0, 1, 127, 128, 129])  # Where the number of frames changes.
def test_every_length_equals_pystoi(extra):
  x = modulated_noise(10_000, 1.5, seed=2)[: 256 * 50 + extra]
  y = np.tanh(20 * x)
  assert stoi(x, y, 10_000) == pytest.approx(pystoi.stoi(x, y, 10_000), abs=TOLERANCE)


def test_read_speech_equals_pystoi(data):
  shard = data / "speech" / "speech_test.tar"
  rng = np.random.default_rng(3)
  with tarfile.open(shard) as tar:
    members = sorted((m for m in tar if m.name.endswith(".flac")), key=lambda m: m.name)[:8]
    for index, member in enumerate(members):
      x, sample_rate = soundfile.read(io.BytesIO(tar.extractfile(member).read()))
      x = x[: 6 * sample_rate]
      noise = rng.standard_normal(len(x)) * np.sqrt(np.mean(x**2))
      y = x + noise * 10 ** (-(5 * index - 10) / 20)
      want = pystoi.stoi(x, y, sample_rate, extended=False)
      assert stoi(x, y, sample_rate) == pytest.approx(want, abs=TOLERANCE), member.name
