"""What remains of a wave, sample by sample: SNR and SI-SDR; and the checks of every measure.

Plain NumPy in float64: these numbers describe a finished file, so nothing here is traced or
differentiated. The losses that are trained on live in `jaxcodec.training`.

Shapes: every signal is `[time]` or `[time, channels]`, floats with full scale 1; reference and
estimate have the same shape. Every measure returns one Python float and raises `ValueError` for
shapes that differ, for no samples at all, and for values that are not finite.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def snr(reference: ArrayLike, estimate: ArrayLike) -> float:
  """Signal-to-noise ratio in dB: `10 log10(sum(x^2) / sum((y - x)^2))`.

  The sums run over time and channels. Equal signals give `inf`, silent ones too; a silent
  reference with any other estimate gives `-inf`.
  """
  x, y = signal_pair(reference, estimate)
  return _decibels(np.sum(x**2), np.sum((y - x) ** 2))


def si_sdr(reference: ArrayLike, estimate: ArrayLike) -> float:
  """Scale-invariant signal-to-distortion ratio in dB.

  `10 log10(|a x|^2 / |y - a x|^2)` with `a = <x, y> / |x|^2`, after the mean over time has been
  taken from `x` and `y`. Channels share one `a`, so that a wrong balance counts as distortion.

  Silence: a silent (or constant) reference has no direction to project on and gives `nan`; a
  silent estimate of any other reference gives `-inf`, an exact multiple of the reference `inf`
  (or some 300 dB, where the multiplication rounds).
  Source: Le Roux et al., "SDR - half-baked or well done?", https://arxiv.org/abs/1811.02508,
  equation 3.
  """
  x, y = (_without_mean(wave) for wave in signal_pair(reference, estimate))
  energy = np.sum(x**2)
  if energy == 0:
    return math.nan
  if not y.any():
    return -math.inf
  target = np.sum(x * y) / energy * x
  return _decibels(np.sum(target**2), np.sum((y - target) ** 2))


def signal_pair(reference: ArrayLike, estimate: ArrayLike) -> tuple[Floats, Floats]:
  """Both signals as float64 `[time, channels]`, checked."""
  pair = []
  for name, wave in (("reference", reference), ("estimate", estimate)):
    array = np.asarray(wave, np.float64)
    if array.ndim not in (1, 2) or array.size == 0:
      raise ValueError(f"{name} must be [time] or [time, channels], not empty; got {array.shape}")
    if not np.isfinite(array).all():
      raise ValueError(f"{name} holds values that are not finite")
    pair.append(array)
  x, y = pair
  if x.shape != y.shape:
    raise ValueError(f"reference has shape {x.shape}, estimate has {y.shape}")
  return x.reshape(len(x), -1), y.reshape(len(y), -1)


def check_rate(sample_rate: int) -> None:
  if sample_rate != int(sample_rate) or sample_rate < 1000:
    raise ValueError(f"sample_rate must be a whole number of Hz, 1000 or more; got {sample_rate}")


def _decibels(power: float, error: float) -> float:
  if error == 0:
    return math.inf
  return 10 * math.log10(power / error) if power > 0 else -math.inf


def _without_mean(wave: Floats) -> Floats:
  centred = wave - wave.mean(axis=0)
  # What a constant leaves behind is the rounding of its mean, which must not pass for a signal.
  rounding = 1e-13 * np.abs(wave).max(axis=0)
  return np.where(np.abs(centred).max(axis=0) <= rounding, 0.0, centred)
