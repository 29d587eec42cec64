"""Log-mel spectra of speech, whole or in chunks."""

import jax.numpy as jnp
import numpy as np

from jaxcodec.functional.spectral import mel_filterbank

WINDOW, HOP, _FFT = 400, 160, 512  # Samples at 16 kHz: 25 ms, 10 ms, 32 ms.
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
