"""Spectra of sound as pure functions. Waves are [..., T]."""

import functools

import jax.numpy as jnp
import numpy as np


def stft_magnitude(x, window_length: int, hop_length: int):
  """Magnitudes of the Hann-windowed short-time spectrum, scaled to unit window energy.

  Returns:
    `[..., frames, window_length // 2 + 1]`, without padding: frames is
    `1 + (T - window_length) // hop_length`.
  """
  frames = 1 + (x.shape[-1] - window_length) // hop_length
  starts = hop_length * np.arange(frames)[:, None]
  hann = np.hanning(window_length + 1)[:-1]
  window = jnp.asarray(hann / np.sqrt(np.sum(hann**2)), x.dtype)
  spectrum = jnp.fft.rfft(x[..., starts + np.arange(window_length)] * window)
  # The square root's slope at zero is infinite; the floor is 120 dB below full scale.
  return jnp.sqrt(jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2 + 1e-12)


@functools.cache
def mel_filterbank(sample_rate: int, window_length: int, num_bands: int) -> np.ndarray:
  """Triangular filters `[window_length // 2 + 1, num_bands]`, peak 1, evenly spaced in mel.

  The last one ends at Nyquist.
  The mel scale is HTK's, 2595 log10(1 + f / 700).
  """
  top = 2595 * np.log10(1 + sample_rate / 2 / 700)
  edges = 700 * (10 ** (np.linspace(0, top, num_bands + 2) / 2595) - 1)
  bins = np.fft.rfftfreq(window_length, 1 / sample_rate)[:, None]
  rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
  falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
  return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
