"""Spectra of sound as pure functions. Waves are [..., T]."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def stft(x, window_length: int, hop_length: int):
  """Hann-windowed short-time spectrum, scaled to unit window energy.

  Returns:
    complex `[..., frames, window_length // 2 + 1]`, without padding: frames is
    `1 + (T - window_length) // hop_length`.
  """
  if window_length % hop_length:
    frames = 1 + (x.shape[-1] - window_length) // hop_length
    starts = hop_length * np.arange(frames)[:, None]
    window = jnp.asarray(_window(window_length), x.dtype)
    return jnp.fft.rfft(x[..., starts + np.arange(window_length)] * window)
  # The TPU's compiler takes minutes for the FFTs of one loss.
  return jax.lax.platform_dependent(
    x,
    tpu=functools.partial(stft_by_convolution, window_length=window_length, hop_length=hop_length),
    default=functools.partial(_by_fft, window_length=window_length, hop_length=hop_length),
  )


def _by_fft(x, window_length: int, hop_length: int):
  frames = 1 + (x.shape[-1] - window_length) // hop_length
  # By slices: the gradient of a gather is a scatter, which is slow on every platform.
  parts = window_length // hop_length
  blocks = x[..., : (frames + parts - 1) * hop_length]
  blocks = blocks.reshape(*x.shape[:-1], frames + parts - 1, hop_length)
  framed = jnp.concatenate([blocks[..., i : i + frames, :] for i in range(parts)], axis=-1)
  return jnp.fft.rfft(framed * jnp.asarray(_window(window_length), x.dtype))


def stft_by_convolution(x, window_length: int, hop_length: int):
  """`stft` as a convolution with windowed waves; `hop_length` divides `window_length`."""
  parts, bins = window_length // hop_length, window_length // 2 + 1
  steps = x.shape[-1] // hop_length
  blocks = x[..., : steps * hop_length].reshape(-1, steps, hop_length)
  # The angle's whole turns are dropped while numbers are exact.
  turns = np.outer(np.arange(window_length), np.arange(bins)) % window_length
  waves = np.exp(-2j * np.pi / window_length * turns) * _window(window_length)[:, None]
  kernel = np.concatenate([waves.real, waves.imag], axis=1).reshape(parts, hop_length, 2 * bins)
  y = jax.lax.conv_general_dilated(
    blocks,
    jnp.asarray(kernel, x.dtype),
    (1,),
    "VALID",
    dimension_numbers=("NWC", "WIO", "NWC"),
    precision="highest",
  )
  y = y.reshape(*x.shape[:-1], *y.shape[1:])
  return jax.lax.complex(y[..., :bins], y[..., bins:])


def _window(length: int) -> np.ndarray:
  hann = np.hanning(length + 1)[:-1]
  return hann / np.sqrt(np.sum(hann**2))


def stft_magnitude(x, window_length: int, hop_length: int):
  """Magnitudes of `stft`."""
  spectrum = stft(x, window_length, hop_length)
  # The square root's slope at zero is infinite; the floor is 120 dB below full scale.
  return jnp.sqrt(jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2 + 1e-12)


@functools.cache
def mel_filterbank(
  sample_rate: int,
  window_length: int,
  num_bands: int,
  *,
  slaney: bool = False,
  lowest: float = 0.0,
) -> np.ndarray:
  """Triangular filters `[window_length // 2 + 1, num_bands]`, evenly spaced in mel up to Nyquist.

  Bands narrower than a bin may hold none: their filters are zeros.

  Args:
    slaney: False for HTK's mel scale, 2595 log10(1 + f / 700), and filters of peak 1; True for
      Slaney's, linear up to 1000 Hz (15 mel) and logarithmic above, and filters of area 1 Hz.
      Source of the latter: Slaney, "Auditory Toolbox", 1998.
    lowest: where the first filter begins, in Hz.
  """
  to_mel, to_hz = (_slaney_mel, _slaney_hz) if slaney else (_htk_mel, _htk_hz)
  edges = to_hz(np.linspace(to_mel(lowest), to_mel(sample_rate / 2), num_bands + 2))
  bins = np.fft.rfftfreq(window_length, 1 / sample_rate)[:, None]
  rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
  falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
  filters = np.maximum(0, np.minimum(rising, falling))
  if slaney:
    filters *= 2 / (edges[2:] - edges[:-2])
  return filters.astype(np.float32)


def _htk_mel(hz):
  return 2595 * np.log10(1 + hz / 700)


def _htk_hz(mel):
  return 700 * (10 ** (mel / 2595) - 1)


# 15 mel are 1000 Hz; 27 mel more are a factor of 6.4.
def _slaney_mel(hz):
  return np.where(hz < 1000, 0.015 * hz, 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4))


def _slaney_hz(mel):
  return np.where(mel < 15, mel / 0.015, 1000 * 6.4 ** ((mel - 15) / 27))
