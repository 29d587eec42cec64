import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from jaxcodec.metrics import mel_distance, pesq, si_sdr, snr, stft_distance, stoi

RATE = 16_000


def noise(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape)


def at_snr(x, snr_db, seed=1):
  """`x` and a noise that is orthogonal to it, of zero mean, at exactly `snr_db`."""
  error = noise(*x.shape, seed=seed)
  error -= error.mean()
  centred = x - x.mean()
  error -= np.sum(error * centred) / np.sum(centred**2) * centred
  return x + error * np.sqrt(np.sum(x**2) / np.sum(error**2)) * 10 ** (-snr_db / 20)


def test_snr_by_hand():
  # 25 / 1 and 25 / 25.
  assert snr([3.0, 4.0], [3.0, 5.0]) == pytest.approx(10 * math.log10(25))
  assert snr([3.0, 4.0], [0.0, 0.0]) == pytest.approx(0.0)


def test_si_sdr_by_hand():
  # x = (1, -1), y = (1, 0): mean taken, y = (.5, -.5) = x / 2 exactly.
  assert si_sdr([1.0, -1.0], [1.0, 0.0]) == math.inf
  # x = (1, -1, 0, 0), y = (1, -1, 1, -1): a = 1, target energy 2, error energy 2.
  assert si_sdr([1.0, -1.0, 0.0, 0.0], [1.0, -1.0, 1.0, -1.0]) == pytest.approx(0.0)
  # y = (3, -3, 1, -1): a = 3, target energy 18, error energy 2.
  assert si_sdr([1.0, -1.0, 0.0, 0.0], [3.0, -3.0, 1.0, -1.0]) == pytest.approx(10 * math.log10(9))


@given(snr_db=st.floats(-30, 60))
def test_known_noise_levels(snr_db):
  x = noise(4000)
  x -= x.mean()
  y = at_snr(x, snr_db)
  assert snr(x, y) == pytest.approx(snr_db, abs=1e-6)
  assert si_sdr(x, y) == pytest.approx(snr_db, abs=1e-6)


@given(gain=st.floats(1e-3, 1e3), offset=st.floats(-1, 1))
def test_si_sdr_ignores_gain_sign_and_offset(gain, offset):
  x = noise(1000)
  y = at_snr(x, 12)
  want = si_sdr(x, y)
  assert si_sdr(x, gain * y) == pytest.approx(want, abs=1e-6)
  assert si_sdr(x, -gain * y) == pytest.approx(want, abs=1e-6)
  assert si_sdr(x, y + offset) == pytest.approx(want, abs=1e-6)
  assert si_sdr(gain * x + offset, y) == pytest.approx(want, abs=1e-6)


def test_silence_is_documented():
  x, zero = noise(100), np.zeros(100)
  assert snr(x, x) == math.inf
  assert snr(zero, zero) == math.inf
  assert snr(zero, x) == -math.inf
  assert math.isnan(si_sdr(zero, x))
  assert math.isnan(si_sdr(zero, zero))
  assert math.isnan(si_sdr(np.full(100, 0.1), x))
  assert si_sdr(x, zero) == -math.inf
  assert si_sdr(x, np.full(100, 0.1)) == -math.inf


def test_channels_share_one_scale():
  x = noise(1000, 2)
  assert si_sdr(x[:, :1], x[:, :1] * 0.5) > 250
  assert si_sdr(x, x * [1.0, 0.5]) < 20
  # A silent channel is no obstacle.
  silent = x * [1.0, 0.0]
  assert si_sdr(silent, 3 * silent) > 250
  assert snr(x, x * [1.0, 0.5]) == pytest.approx(
    10 * math.log10(np.sum(x**2) / np.sum((0.5 * x[:, 1]) ** 2))
  )


@pytest.mark.parametrize(
  "metric",
  [snr, si_sdr, stft_distance, lambda x, y: stoi(x, y, RATE), lambda x, y: pesq(x, y, RATE)],
)
def test_bad_signals_are_refused(metric):
  with pytest.raises(ValueError, match=r"reference has shape \(3,\), estimate has \(4,\)"):
    metric(np.ones(3), np.ones(4))
  with pytest.raises(ValueError, match="must be"):
    metric(np.ones((2, 3, 4)), np.ones((2, 3, 4)))
  with pytest.raises(ValueError, match="not empty"):
    metric([], [])
  with pytest.raises(ValueError, match="estimate holds values that are not finite"):
    metric(np.ones(2), [1.0, math.nan])


def test_bad_rates_are_refused():
  for metric in (stoi, pesq, mel_distance):
    with pytest.raises(ValueError, match="sample_rate"):
      metric(noise(100), noise(100), 0)
