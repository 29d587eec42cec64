"""Log-mel spectra of speech, whole or in chunks."""

import jax.numpy as jnp
import numpy as np

from jaxcodec.functional.spectral import mel_filterbank, stft_magnitude

WINDOW, HOP, _FFT = 400, 160, 512  # Samples at 16 kHz: 25 ms, 10 ms, 32 ms.
_LONG = 1024
_BEFORE = WINDOW // 2 + 1  # Of the first frame's centre; one more sample for the difference.


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
