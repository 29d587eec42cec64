"""How far a decoded sound is from the original: SNR, SI-SDR, STOI and a log-mel distance.

Plain NumPy in float64: these numbers describe a finished file, so nothing here is traced or
differentiated. The losses that are trained on live in `jaxcodec.training`.

Shapes: every signal is `[time]` or `[time, channels]`, floats with full scale 1; reference and
estimate have the same shape. Every function returns one Python float and raises `ValueError` for
shapes that differ, for no samples at all, and for values that are not finite.
"""

import itertools
import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray
from scipy import signal

Floats = NDArray[np.float64]

# STOI, as in section II of the paper.
STOI_RATE = 10_000  # Hz
STOI_WINDOW = 256  # samples
STOI_FFT = 512
STOI_BANDS = 15  # a third of an octave each
STOI_LOWEST = 150.0  # Hz, centre of the lowest band
STOI_SEGMENT = 30  # frames: 384 ms
STOI_CLIP = 10 ** (15 / 20)  # the lower bound on the signal-to-distortion ratio is -15 dB
STOI_DYNAMIC_RANGE = 40.0  # dB; frames further below the loudest one are silent

MEL_BANDS = 64
MEL_FLOOR = 1e-5  # amplitude: -100 dBFS

EPS = float(np.finfo(np.float64).eps)


def snr(reference: ArrayLike, estimate: ArrayLike) -> float:
  """Signal-to-noise ratio in dB: `10 log10(sum(x^2) / sum((y - x)^2))`.

  The sums run over time and channels. Equal signals give `inf`, silent ones too; a silent
  reference with any other estimate gives `-inf`.
  """
  x, y = _pair(reference, estimate)
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
  x, y = (_without_mean(wave) for wave in _pair(reference, estimate))
  energy = np.sum(x**2)
  if energy == 0:
    return math.nan
  if not y.any():
    return -math.inf
  target = np.sum(x * y) / energy * x
  return _decibels(np.sum(target**2), np.sum((y - target) ** 2))


def stoi(reference: ArrayLike, estimate: ArrayLike, sample_rate: int) -> float:
  """Short-time objective intelligibility: about 0 for noise, 1 for a perfect copy.

  The classic measure, not the extended one. Channels are averaged to one first, as a single
  loudspeaker would play them. Any rate is resampled to 10 kHz by a Kaiser low-pass of 60 dB.
  Frames in which the reference lies 40 dB below its loudest frame are cut from both signals, and
  the last frame of a signal is left out, both as in the authors' program: figures agree with
  what others publish.
  Source: Taal et al., "An algorithm for intelligibility prediction of time-frequency weighted
  noisy speech", IEEE TASLP 19(7), 2011, https://doi.org/10.1109/TASL.2011.2114881.

  Raises:
    ValueError: if fewer than 30 frames of 25.6 ms, 12.8 ms apart (0.4 s), are left without the
      silent ones.
  """
  _check_rate(sample_rate)
  x, y = (wave.mean(axis=1) for wave in _pair(reference, estimate))
  x, y = (_to_stoi_rate(wave, sample_rate) for wave in (x, y))
  x, y = _cut_silence(x, y)
  bands = [_third_octaves(wave) for wave in (x, y)]
  frames = bands[0].shape[0]
  if frames < STOI_SEGMENT:
    raise ValueError(
      f"STOI needs {STOI_SEGMENT} frames (0.4 s) that are not silent, the reference has {frames}"
    )
  # [segments, bands, 30]: views, one step of a frame apart.
  x, y = (sliding_window_view(band, STOI_SEGMENT, axis=0) for band in bands)
  scale = _norm(x) / (_norm(y) + EPS)
  clipped = np.minimum(scale * y, (1 + STOI_CLIP) * x)
  return float(np.mean(np.sum(_direction(x) * _direction(clipped), axis=-1)))


def log_mel_distance(reference: ArrayLike, estimate: ArrayLike, sample_rate: int) -> float:
  """Mean absolute difference of log10 mel amplitudes; 1 is 20 dB in every band and frame.

  Magnitudes of Hann windows of 32 ms (rounded up to a power of two samples), a quarter of that
  apart, zero-padded to twice their length, scaled so that a sine of amplitude A peaks at A; 64
  triangular bands, each a weighted mean, evenly spaced in mel (`2595 log10(1 + f / 700)`) from 0
  to half the sample rate; floor 1e-5, so two silent signals are 0 apart. The mean runs over
  frames, bands and channels. There are zeros around the signal.
  """
  _check_rate(sample_rate)
  x, y = _pair(reference, estimate)
  window = window_length(sample_rate)
  filters = _mel_filters(sample_rate, 2 * window)
  distances = []
  for channel in range(x.shape[1]):
    mels = [
      np.log10(np.maximum(magnitudes(wave[:, channel], window, window // 4) @ filters, MEL_FLOOR))
      for wave in (x, y)
    ]
    distances.append(np.mean(np.abs(mels[0] - mels[1])))
  return float(np.mean(distances))


def window_length(sample_rate: int) -> int:
  """Samples in 32 ms, rounded up to a power of two: 512 at 16 kHz, 1024 at 24 kHz."""
  return 2 ** math.ceil(math.log2(0.032 * sample_rate))


def magnitudes(wave: Floats, window: int, hop: int) -> Floats:
  """Magnitudes `[frames, window + 1]` of Hann windows of `wave` `[time]`, `hop` samples apart.

  Windows are centred on samples 0, hop, 2 hop, ... with zeros around the signal, and each is
  zero-padded to twice its length; a sine of amplitude A on a bin gives A there.
  """
  frames = 1 + math.ceil((len(wave) - 1) / hop)
  left = window // 2
  wave = np.pad(wave, (left, (frames - 1) * hop + window - left - len(wave)))
  taper = signal.get_window("hann", window)
  pieces = sliding_window_view(wave, window)[::hop]
  out = np.empty((len(pieces), window + 1))
  # In blocks: the complex spectra of an hour of sound would not fit in memory.
  for start in range(0, len(pieces), 1024):
    block = pieces[start : start + 1024] * taper
    out[start : start + 1024] = np.abs(np.fft.rfft(block, 2 * window))
  return out * (2 / taper.sum())


def _pair(reference: ArrayLike, estimate: ArrayLike) -> tuple[Floats, Floats]:
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


def _check_rate(sample_rate: int) -> None:
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


def _to_stoi_rate(wave: Floats, sample_rate: int) -> Floats:
  if sample_rate == STOI_RATE:
    return wave
  divisor = math.gcd(STOI_RATE, int(sample_rate))
  up, down = STOI_RATE // divisor, int(sample_rate) // divisor
  # Kaiser's design rule: 60 dB, and a transition of a tenth of the band, because a wider one
  # changes the energies that decide which frames are silent.
  attenuation = 60.0
  half = math.ceil((attenuation - 8) / (28.714 / (20 * max(up, down))))
  window = ("kaiser", signal.kaiser_beta(attenuation))
  taps = signal.firwin(2 * half + 1, 1 / max(up, down), window=window)
  return signal.resample_poly(wave, up, down, window=taps)


def _stoi_frames(wave: Floats) -> Floats:
  """Windows `[frames, 256]`, half a window apart, without the last one."""
  taper = np.hanning(STOI_WINDOW + 2)[1:-1]
  if len(wave) <= STOI_WINDOW:
    return np.empty((0, STOI_WINDOW))
  return sliding_window_view(wave[:-1], STOI_WINDOW)[:: STOI_WINDOW // 2] * taper


def _cut_silence(x: Floats, y: Floats) -> tuple[Floats, Floats]:
  """Both signals without the frames in which `x` is silent, the rest overlapped and added."""
  frames = [_stoi_frames(wave) for wave in (x, y)]
  levels = np.linalg.norm(frames[0], axis=1)
  loud = levels > 10 ** (-STOI_DYNAMIC_RANGE / 20) * levels.max(initial=0.0)
  hop = STOI_WINDOW // 2
  out = []
  for frame in frames:
    kept = frame[loud]
    wave = np.zeros((len(kept) + 1, hop))
    wave[:-1] += kept[:, :hop]
    wave[1:] += kept[:, hop:]
    out.append(wave.reshape(-1))
  return out[0], out[1]


def _third_octaves(wave: Floats) -> Floats:
  """Amplitudes `[frames, bands]` in third-octave bands, edges moved to the nearest bin."""
  power = np.abs(np.fft.rfft(_stoi_frames(wave), STOI_FFT)) ** 2
  edges = STOI_LOWEST * 2 ** ((2 * np.arange(STOI_BANDS + 1) - 1) / 6)
  bins = np.rint(edges * STOI_FFT / STOI_RATE).astype(int)
  totals = [power[:, low:high].sum(axis=1) for low, high in itertools.pairwise(bins)]
  return np.sqrt(np.stack(totals, axis=1))


def _norm(x: Floats) -> Floats:
  return np.linalg.norm(x, axis=-1, keepdims=True)


def _direction(x: Floats) -> Floats:
  centred = x - x.mean(axis=-1, keepdims=True)
  return centred / (_norm(centred) + EPS)


def _mel_filters(sample_rate: int, fft_length: int) -> Floats:
  """Triangles `[bins, bands]`; each band's weights sum to 1."""
  top = 2595 * math.log10(1 + sample_rate / 2 / 700)
  points = 700 * (10 ** (np.linspace(0, top, MEL_BANDS + 2) / 2595) - 1)
  low, centre, high = points[:-2], points[1:-1], points[2:]
  bins = np.linspace(0, sample_rate / 2, fft_length // 2 + 1)[:, None]
  triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
  triangles = np.maximum(triangles, 0)
  return triangles / triangles.sum(axis=0)
