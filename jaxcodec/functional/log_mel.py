"""Log-mel spectra of speech, whole or in chunks."""

import functools

import jax.numpy as jnp
import numpy as np

from jaxcodec.functional.spectral import mel_filterbank, stft_magnitude

WINDOW, HOP, _FFT = 400, 160, 512  # Samples at 16 kHz: 25 ms, 10 ms, 32 ms.
_LONG = 1024
_BEFORE = WINDOW // 2 + 1  # Of the first frame's centre; one more sample for the difference.


def kaldi_log_mel(x, num_bands: int = 128, state=None):
  """Waves at 16 kHz [B, T] to `(natural logarithms [B, frames, bands], state)`, as Kaldi's fbank.

  Frame k is of the 25 ms from sample 160 k on, and there is none that the signal does not fill:
  max(0, 1 + (T - 400) // 160). Each is freed of its mean, differenced (x[n] - 0.97 x[n - 1], its
  first sample taken twice), and under a Hann window; power; triangles in mel from 20 Hz on; a floor
  of 2^-23.
  Source: kaldi's feature-window.cc and mel-computations.cc with torchaudio's defaults, without
  dither.

  Args:
    state: what the call for the chunk before returned; None at the start.
  """
  x = x if state is None else jnp.concatenate([state, x], axis=1)
  frames = max(0, 1 + (x.shape[1] - WINDOW) // HOP)
  rest = x[:, frames * HOP :]
  y = x[:, HOP * np.arange(frames)[:, None] + np.arange(WINDOW)]
  y = y - y.mean(axis=-1, keepdims=True)
  y = y - 0.97 * jnp.concatenate([y[..., :1], y[..., :-1]], axis=-1)
  spectrum = jnp.fft.rfft(y * jnp.asarray(np.hanning(WINDOW), x.dtype), _FFT)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  return jnp.log(jnp.maximum(power @ _kaldi_filters(num_bands), 2.0**-23)), rest


@functools.cache
def _kaldi_filters(num_bands: int) -> np.ndarray:
  """Triangles [_FFT // 2 + 1, bands] of peak 1, even and straight in 1127 ln(1 + f / 700)."""
  mel = lambda hz: 1127 * np.log1p(hz / 700)  # noqa: E731
  edges = np.linspace(mel(20.0), mel(8000.0), num_bands + 2)
  bins = mel(np.arange(_FFT // 2 + 1) * 16_000 / _FFT)[:, None]
  rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
  falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
  return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def log_mel(x, num_bands: int = 80, state=None, final: bool = True):
  """Waves at 16 kHz [B, T] to `(natural logarithms [B, frames, bands], state)`.

  Frame k is centred at sample 160 k; the last one lies within the signal, so there are T // 160.
  Waves are differenced (x[n] - 0.97 x[n - 1]); a Hann window of 25 ms; power; Slaney's filters of
  area 1; a floor of 2^-24.
  Source: NVIDIA's NeMo, collections/asr/parts/preprocessing/features.py, without its dither and
  without normalisation, whose statistics would be of what is to come.

  Args:
    state: what the call for the chunk before returned; None at the start.
    final: whether the signal ends with this chunk; else the frames that need more samples wait.
  """
  if state is None:
    state = jnp.zeros((x.shape[0], _BEFORE), x.dtype)
  x = jnp.concatenate([state, x], axis=1)
  left = x.shape[1] - _BEFORE if final else x.shape[1] - 1 - WINDOW + HOP
  frames = max(0, left // HOP)
  rest = x[:, frames * HOP :]
  x = jnp.pad(x, ((0, 0), (0, max(0, (frames - 1) * HOP + WINDOW + 1 - x.shape[1]))))
  y = x[:, 1:] - 0.97 * x[:, :-1]
  places = HOP * np.arange(frames)[:, None] + np.arange(WINDOW)
  # A window that begins and ends at zero, centred in the transform.
  spectrum = jnp.fft.rfft(y[:, places] * jnp.asarray(np.hanning(WINDOW), x.dtype), _FFT)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  filters = mel_filterbank(16_000, _FFT, num_bands, slaney=True)
  return jnp.log(power @ filters + 2.0**-24), rest


def vocoder_log_mel(x, num_bands: int):
  """Waves at 16 kHz [B, T] to natural logarithms [B, T // 160, bands], as vocoders are given them.

  Frame k is centred at sample 160 k of a wave reflected at its ends; a Hann window of 1024 samples;
  magnitudes; Slaney's filters of area 1 up to 8 kHz; a floor of 1e-5.
  Source: Tacotron 2's `TacotronSTFT`, as AudioLDM and HiFi-GAN have it.
  """
  padded = jnp.pad(x, ((0, 0), (_LONG // 2, _LONG // 2)), mode="reflect")
  # There the window is as it is, not of unit energy: the mean of its square is 3/8.
  magnitude = stft_magnitude(padded, _LONG, HOP)[:, : x.shape[1] // HOP] * (3 / 8 * _LONG) ** 0.5
  filters = mel_filterbank(16_000, _LONG, num_bands, slaney=True)
  return jnp.log(jnp.maximum(magnitude @ filters, 1e-5))
