"""Mel spectra as vocoders are given them, against their definition in NumPy."""

import jax
import numpy as np

from jaxcodec.functional.log_mel import vocoder_log_mel
from jaxcodec.functional.spectral import mel_filterbank


def test_frames_are_centred_windowed_and_floored():
  x = np.random.default_rng(0).normal(0, 0.1, (1, 3200)).astype(np.float32)
  x[:, 2000:] = 0
  found = np.asarray(jax.jit(vocoder_log_mel, static_argnums=1)(x, 20))
  assert found.shape == (1, 20, 20)
  padded = np.pad(x[0].astype(np.float64), 512, mode="reflect")
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
  for frame in (0, 7, 19):
    magnitude = np.abs(np.fft.rfft(window * padded[160 * frame :][:1024]))
    mel = magnitude @ mel_filterbank(16_000, 1024, 20, slaney=True)
    np.testing.assert_allclose(found[0, frame], np.log(np.maximum(mel, 1e-5)), atol=2e-3)
