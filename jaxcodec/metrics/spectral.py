"""How far spectra are apart: the mel and the STFT distance with which the DAC paper reports.

Signals, errors and results are as in `jaxcodec.metrics.waveform`. A signal's spectrogram is
centred: window i is around sample i * hop, and the signal is reflected at its ends.
"""

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike
from scipy import signal

from jaxcodec.functional.spectral import mel_filterbank
from jaxcodec.metrics.waveform import Floats, check_rate, signal_pair

# (window in samples, bands) of each scale, a window's quarter apart.
MEL_SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))
STFT_WINDOWS = (2048, 512)  # samples

FLOOR = 1e-5  # of a magnitude before its logarithm: sums over a window, so not dB of full scale

_BLOCK = 1024  # windows; the complex spectra of an hour of sound would not fit in memory


def mel_distance(reference: ArrayLike, estimate: ArrayLike, sample_rate: int) -> float:
  """Mean absolute difference of log10 mel magnitudes, summed over seven scales; 0 is a copy.

  Windows of 32, 64, ..., 2048 samples with 5, 10, ..., 320 bands of Slaney's mel filters from 0
  to half the rate; the mean runs over channels, windows and bands. A gain of 10 throughout gives
  at most 7; bands that no bin falls into, of which short windows have some, count as equal.
  Windows are samples whatever the rate, so figures of different rates do not compare.
  Source: Kumar et al., "High-fidelity audio compression with improved RVQGAN",
  https://arxiv.org/abs/2306.06546, section 3.5, and the settings of its training.
  """
  check_rate(sample_rate)
  x, y = signal_pair(reference, estimate)
  total = 0.0
  for window, bands in MEL_SCALES:
    filters = mel_filterbank(int(sample_rate), window, bands, slaney=True)
    difference = 0.0
    for spectrum_x, spectrum_y in _spectra(x, y, window):
      mels = (_log(spectrum @ filters) for spectrum in (spectrum_x, spectrum_y))
      difference += _absolute_difference(*mels)
    total += difference / (bands * _num_windows(x, window))
  return total


def stft_distance(reference: ArrayLike, estimate: ArrayLike) -> float:
  """Distance of magnitude spectra, summed over windows of 2048 and 512 samples; 0 is a copy.

  For each window the mean absolute difference of log10 of squared magnitudes (2 is 20 dB) plus
  that of the magnitudes themselves, means over channels, windows and bins. The second term
  grows with the signal's level, so figures compare on the same recordings only.
  Source: Engel et al., "DDSP", https://arxiv.org/abs/2001.04643, with the windows and weights
  with which the DAC paper's program reports.
  """
  x, y = signal_pair(reference, estimate)
  total = 0.0
  for window in STFT_WINDOWS:
    difference = 0.0
    for spectrum_x, spectrum_y in _spectra(x, y, window):
      difference += 2 * _absolute_difference(_log(spectrum_x), _log(spectrum_y))
      difference += _absolute_difference(spectrum_x, spectrum_y)
    total += difference / ((window // 2 + 1) * _num_windows(x, window))
  return total


def magnitudes(wave: Floats, window: int, hop: int) -> Floats:
  """Magnitudes `[1 + time // hop, window // 2 + 1]` of periodic Hann windows of `wave` `[time]`.

  A sine of amplitude A on a bin gives A * window / 4 there.
  """
  return np.concatenate(list(_blocks(wave, window, hop)))


def _blocks(wave: Floats, window: int, hop: int) -> Iterator[Floats]:
  padded = np.pad(wave, window // 2, mode="reflect")
  taper = signal.get_window("hann", window)
  pieces = sliding_window_view(padded, window)[::hop]
  for start in range(0, len(pieces), _BLOCK):
    yield np.abs(np.fft.rfft(pieces[start : start + _BLOCK] * taper))


def _spectra(x: Floats, y: Floats, window: int) -> Iterator[tuple[Floats, Floats]]:
  """Magnitudes of both signals `[time, channels]`, channel by channel, block by block."""
  for wave_x, wave_y in zip(x.T, y.T, strict=True):
    hop = window // 4
    yield from zip(_blocks(wave_x, window, hop), _blocks(wave_y, window, hop), strict=True)


def _num_windows(x: Floats, window: int) -> int:
  return x.shape[1] * (1 + len(x) // (window // 4))


def _log(magnitude: Floats) -> Floats:
  return np.log10(np.maximum(magnitude, FLOOR))


def _absolute_difference(x: Floats, y: Floats) -> float:
  return float(np.sum(np.abs(x - y)))
