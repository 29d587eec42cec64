import numpy as np
import pytest

from jaxcodec.functional.spectral import mel_filterbank
from jaxcodec.metrics import mel_distance, stft_distance
from jaxcodec.metrics.spectral import MEL_SCALES, magnitudes

RATE = 16_000


def noise(*shape, seed=0):
  return 0.1 * np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_mel_distance_of_a_gain_is_its_logarithm_in_every_band_that_has_a_bin(rate):
  x = 1000 * noise(rate // 4)  # Nothing of it at the floor.
  shares = [mel_filterbank(rate, *scale, slaney=True).any(axis=0).mean() for scale in MEL_SCALES]
  assert mel_distance(x, x, rate) == 0
  assert mel_distance(x, 10 * x, rate) == pytest.approx(sum(shares))
  assert mel_distance(x, -x / 2, rate) == pytest.approx(np.log10(2) * sum(shares))


def test_mel_distance_counts_down_to_the_floor():
  x, zero = noise(RATE), np.zeros(RATE)
  assert mel_distance(x, 1e-9 * x, RATE) == mel_distance(x, zero, RATE)
  assert mel_distance(zero, zero, RATE) == 0


def test_stft_distance_of_an_impulse_by_hand():
  # On the grid of both hops an impulse is seen by three windows, at heights 1/2, 1 and 1/2, with
  # flat spectra. At a gain of 10 their squares differ by 2 in log10, their magnitudes by 9 times.
  x = np.zeros(8192)
  x[4096] = 1
  each = 3 * 2 + 9 * (0.5 + 1 + 0.5)
  want = each / (1 + 8192 // 512) + each / (1 + 8192 // 128)
  assert stft_distance(x, 10 * x) == pytest.approx(want)
  assert stft_distance(10 * x, x) == pytest.approx(want)
  assert stft_distance(x, x) == 0


def test_both_distances_are_means_over_channels():
  x, y = noise(4000, 2), noise(4000, 2, seed=1)
  for metric in (lambda x, y: mel_distance(x, y, RATE), stft_distance):
    each = [metric(x[:, c], y[:, c]) for c in range(2)]
    assert metric(x, y) == pytest.approx(np.mean(each))


def test_few_samples_are_reflected_as_often_as_needed():
  assert mel_distance([0.5], [0.5], RATE) == 0
  # One sample reflected is a constant.
  x, y = np.full(5000, 0.5), np.full(5000, 0.05)
  assert mel_distance([0.5], [0.05], RATE) == pytest.approx(mel_distance(x, y, RATE))
  assert stft_distance([0.5], [0.05]) == pytest.approx(stft_distance(x, y))


def test_magnitudes_are_the_transforms_of_centred_windows():
  x = noise(100)
  got = magnitudes(x, 32, 8)
  padded = np.concatenate([x[16:0:-1], x, x[-2:-18:-1]])
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(32) / 32)
  waves = np.exp(-2j * np.pi * np.outer(np.arange(17), np.arange(32)) / 32)
  want = [np.abs(waves @ (padded[8 * i : 8 * i + 32] * hann)) for i in range(13)]
  np.testing.assert_allclose(got, want, atol=1e-12)


def test_magnitudes_in_blocks_are_those_of_the_whole():
  x = noise(3000)
  whole = magnitudes(x, 32, 1)
  assert whole.shape == (3001, 17)
  np.testing.assert_allclose(magnitudes(x, 32, 750), whole[::750], atol=1e-12)
