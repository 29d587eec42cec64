import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from jaxcodec.metrics import log_mel_distance, si_sdr, snr, stoi

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
  assert log_mel_distance(zero, zero, RATE) == 0.0


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


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 44_100, 48_000])
def test_log_mel_distance_of_a_gain_is_its_logarithm(sample_rate):
  x = 0.1 * noise(sample_rate)
  assert log_mel_distance(x, x, sample_rate) == 0.0
  assert log_mel_distance(x, 10 * x, sample_rate) == pytest.approx(1.0)
  assert log_mel_distance(x, -x / 2, sample_rate) == pytest.approx(math.log10(2))


def test_log_mel_distance_counts_down_to_the_floor():
  # From the level of this noise to -100 dBFS, whatever lies below.
  x = 0.1 * noise(RATE)
  assert log_mel_distance(x, 1e-9 * x, RATE) == log_mel_distance(x, np.zeros(RATE), RATE)


def test_log_mel_distance_is_the_mean_over_channels():
  x, y = noise(RATE, 2), noise(RATE, 2, seed=1)
  each = [log_mel_distance(x[:, c], y[:, c], RATE) for c in range(2)]
  assert log_mel_distance(x, y, RATE) == pytest.approx(np.mean(each))


def test_log_mel_distance_of_few_samples():
  assert log_mel_distance([0.5], [0.5], RATE) == 0.0
  assert log_mel_distance([0.5], [0.05], RATE) > 0


@pytest.mark.parametrize("metric", [snr, si_sdr, lambda x, y: stoi(x, y, RATE)])
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
  for metric in (stoi, log_mel_distance):
    with pytest.raises(ValueError, match="sample_rate"):
      metric(noise(100), noise(100), 0)
