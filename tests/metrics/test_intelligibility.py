import importlib.util
import math
import subprocess
import sys

import numpy as np
import pytest

from jaxcodec.metrics import pesq, stoi

RATE = 16_000


def noise(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape)


def at_snr(x, snr_db):
  error = noise(*x.shape, seed=1)
  return x + error * np.sqrt(np.sum(x**2) / np.sum(error**2)) * 10 ** (-snr_db / 20)


def test_stoi_of_a_copy_is_one_at_any_gain():
  x = noise(RATE)
  assert stoi(x, x, RATE) == pytest.approx(1.0, abs=1e-9)
  assert stoi(x, 0.01 * x, RATE) == pytest.approx(1.0, abs=1e-9)
  assert stoi(x, -x, RATE) == pytest.approx(1.0, abs=1e-9)


def test_stoi_falls_with_noise_to_about_zero():
  x = noise(3 * RATE) * np.repeat(np.abs(noise(30, seed=5)) + 0.1, RATE // 10)
  values = [stoi(x, at_snr(x, snr_db), RATE) for snr_db in (30, 10, 0, -10)]
  assert values == sorted(values, reverse=True)
  assert values[0] > 0.97
  assert abs(stoi(x, noise(len(x), seed=9), RATE)) < 0.1


def test_stoi_ignores_what_happens_in_silence():
  x = np.concatenate([noise(RATE), np.zeros(RATE), noise(RATE, seed=2)])
  y = at_snr(x, 5)
  louder = y.copy()
  louder[RATE + 800 : 2 * RATE - 800] = 1.0
  assert stoi(x, louder, RATE) == pytest.approx(stoi(x, y, RATE), abs=1e-3)


def test_stoi_of_channels_is_that_of_their_mean():
  x = noise(RATE, 2)
  y = x + noise(RATE, 2, seed=3)
  assert stoi(x, y, RATE) == stoi(x.mean(axis=1), y.mean(axis=1), RATE)


@pytest.mark.parametrize(
  "x", [noise(10), noise(RATE // 3), np.zeros(RATE), np.r_[noise(RATE // 4), np.zeros(RATE)]]
)
def test_stoi_of_too_little_speech_is_an_error(x):
  with pytest.raises(ValueError, match=r"^STOI needs 30 frames .* the reference has \d+$"):
    stoi(x, x, RATE)


needs_pesq = pytest.mark.skipif(
  importlib.util.find_spec("pesq") is None, reason="pesq comes with the metrics extra"
)


@needs_pesq
def test_pesq_of_a_copy_is_the_top_of_its_scale_and_noise_lowers_it():
  # The mappings of P.862.1 and P.862.2 at the raw score of a copy, 4.5.
  syllables = np.repeat(np.abs(noise(40, seed=5)) > 0.4, RATE // 20)
  x = 0.1 * noise(len(syllables)) * syllables
  assert pesq(x, x, RATE) == pytest.approx(
    0.999 + 4 / (1 + math.exp(-1.3669 * 4.5 + 3.8224)), abs=1e-3
  )
  narrow = 0.999 + 4 / (1 + math.exp(-1.4945 * 4.5 + 4.6607))
  assert pesq(x[::2], x[::2], 8_000) == pytest.approx(narrow, abs=1e-3)
  values = [pesq(x, at_snr(x, snr_db), RATE) for snr_db in (60, 40, 20)]
  assert values == sorted(values, reverse=True)
  assert values[2] < 1.5 < 2.5 < values[1] < 4.5


@needs_pesq
def test_pesq_of_silence_is_not_a_number():
  x, zero = 0.1 * noise(RATE), np.zeros(RATE)
  assert math.isnan(pesq(zero, zero, RATE))
  assert math.isnan(pesq(x, zero, RATE))
  assert math.isnan(pesq(zero, x, RATE))


@needs_pesq
def test_pesq_of_too_few_samples_is_an_error():
  with pytest.raises(ValueError, match=r"PESQ needs 0.25 s, the signals have 0.10 s"):
    pesq(noise(1600), noise(1600), RATE)


@pytest.mark.slow
@needs_pesq
def test_pesq_takes_more_utterances_than_its_program():
  # 95 utterances; beyond 50 the program ends the process, so it gets one of its own.
  code = (
    "import numpy as np; from jaxcodec.metrics import pesq;"
    "x = np.random.default_rng(0).standard_normal(640_000);"
    "x *= 0.1 * (np.arange(640_000) % 6_720 < 3_360); print(pesq(x, x, 16_000))"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert float(out.stdout) == pytest.approx(4.644, abs=1e-3)


@pytest.mark.slow
def test_pesq_says_what_it_needs():
  code = (
    "import sys; sys.modules['pesq'] = None\n"
    "from jaxcodec.metrics import pesq\n"
    "try:\n  pesq([0.1] * 8000, [0.1] * 8000, 16_000)\n"
    "except ImportError as error:\n  print(error)"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert out.stdout.strip() == "PESQ needs a package: pip install 'jaxcodec[metrics]'"
