"""Log-mel spectra as Kaldi computes them, for networks that were trained on its features."""

import functools

import jax.numpy as jnp
import numpy as np

_WINDOW, KALDI_HOP, _FFT = 400, 160, 512  # Samples at 16 kHz: 25 ms, 10 ms, 32 ms.
_LOWEST = 20.0  # Hz.


def kaldi_log_mel(x, num_bands: int):
  """Waves at 16 kHz [B, T] to natural logarithms [B, 1 + (T - 400) // 160, bands].

  Each frame of 25 ms, every 10 ms and none past the end, loses its mean, is differenced (x[n] -
  0.97 x[n - 1], the first sample with itself), has a Hann window that reaches zero at both ends,
  and gives powers of 512 points; triangles in mel from 20 Hz to 8 kHz; a floor of 2^-23.
  Source: Kaldi's compute-fbank-feats with `--htk-compat --window-type=hanning --dither=0`.
  """
  frames = max(0, 1 + (x.shape[1] - _WINDOW) // KALDI_HOP)
  places = KALDI_HOP * np.arange(frames)[:, None] + np.arange(_WINDOW)
  x = x[:, places]
  x = x - x.mean(axis=-1, keepdims=True)
  before = jnp.concatenate([x[..., :1], x[..., :-1]], axis=-1)
  window = jnp.asarray(np.hanning(_WINDOW), x.dtype)
  spectrum = jnp.fft.rfft((x - 0.97 * before) * window, _FFT)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  return jnp.log(jnp.maximum(power @ _filters(num_bands), 2.0**-23))


@functools.cache
def _filters(num_bands: int) -> np.ndarray:
  """[257, bands]: triangles whose sides are straight in mel, as HTK's are in Hz; the bin at 8 kHz
  is in none."""
  mel = lambda hz: 1127 * np.log(1 + hz / 700)  # noqa: E731
  edges = np.linspace(mel(_LOWEST), mel(8000.0), num_bands + 2)
  bins = mel(np.fft.rfftfreq(_FFT, 1 / 16_000))[:, None]
  rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
  falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
  filters = np.maximum(0, np.minimum(rising, falling))
  filters[-1] = 0
  return filters.astype(np.float32)
