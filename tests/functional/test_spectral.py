import jax
import numpy as np
import pytest

from jaxcodec.functional import spectral


@pytest.mark.parametrize(("length", "window", "hop"), [(64, 16, 4), (67, 16, 5), (16, 16, 4)])
def test_stft_magnitude_is_the_transform_of_each_windowed_frame(length, window, hop):
  x = np.random.default_rng(0).normal(size=(2, length)).astype(np.float32)
  got = np.asarray(spectral.stft_magnitude(x, window, hop))
  time = np.arange(window)
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * time / window)
  frequency = np.exp(-2j * np.pi * np.outer(np.arange(window // 2 + 1), time) / window)
  frames = (length - window) // hop + 1
  assert got.shape == (2, frames, window // 2 + 1)
  for i in range(frames):
    frame = x[:, i * hop : i * hop + window] * hann / np.linalg.norm(hann)
    np.testing.assert_allclose(got[:, i], np.abs(frame @ frequency.T), atol=1e-5)


def test_the_form_for_tpus_is_the_same_transform():
  x = np.random.default_rng(0).normal(size=(2, 1, 70)).astype(np.float32)
  forms = spectral.stft, spectral.stft_by_convolution
  wanted, found = jax.jit(lambda x: [form(x, 16, 4) for form in forms])(x)
  assert found.shape == wanted.shape == (2, 1, 14, 9)
  np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_white_noise_of_unit_variance_has_unit_power_in_every_bin():
  x = np.random.default_rng(0).normal(size=(1, 40_000)).astype(np.float32)
  power = np.mean(np.asarray(spectral.stft_magnitude(x, 32, 32)) ** 2, axis=(0, 1))
  # The mean of 1250 frames' powers, each with a spread as large as itself (twice that at the ends).
  np.testing.assert_allclose(power, 1, atol=0.15)


def test_the_gradient_at_silence_is_finite():
  gradient = jax.grad(lambda x: spectral.stft_magnitude(x, 16, 4).sum())(np.zeros(64, np.float32))
  assert np.isfinite(gradient).all()


def test_mel_filters_are_triangles_evenly_spaced_in_mel():
  filters = spectral.mel_filterbank(16_000, 4096, 20)
  assert filters.shape == (2049, 20)
  assert filters.min() == 0
  peaks = np.fft.rfftfreq(4096, 1 / 16_000)[filters.argmax(axis=0)]
  mel = 2595 * np.log10(1 + peaks / 700)
  top = 2595 * np.log10(1 + 8000 / 700)
  # A bin is 4 Hz wide, at the low end 6 mel.
  np.testing.assert_allclose(mel, top * np.arange(1, 21) / 21, atol=6)
  # Neighbours share each frequency between the first peak and the last.
  inner = slice(filters[:, 0].argmax() + 1, filters[:, -1].argmax())
  np.testing.assert_allclose(filters[inner].sum(axis=1), 1, atol=1e-5)


def test_slaney_filters_have_an_area_of_one_and_are_linear_up_to_1000_hz():
  filters = spectral.mel_filterbank(16_000, 4096, 40, slaney=True).astype(np.float64)
  spacing = 16_000 / 4096
  np.testing.assert_allclose(filters.sum(axis=0) * spacing, 1, rtol=0.02)
  peaks = np.fft.rfftfreq(4096, 1 / 16_000)[filters.argmax(axis=0)]
  # 15 mel at 1000 Hz, 27 more at 6400 Hz, so 8000 Hz are 45.245 mel, shared by 41 steps.
  step = (42 + 27 * np.log(1.25) / np.log(6.4)) / 41
  mel = step * np.arange(1, 41)
  want = np.where(mel < 15, mel * 1000 / 15, 1000 * 6.4 ** ((mel - 15) / 27))
  np.testing.assert_allclose(peaks, want, atol=spacing)


def test_a_band_without_a_bin_is_zero():
  filters = spectral.mel_filterbank(16_000, 64, 40, slaney=True)
  assert filters.shape == (33, 40)
  assert not filters.any(axis=0).all()
