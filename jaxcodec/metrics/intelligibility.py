"""How a listener would take it: STOI for intelligibility, PESQ for the quality of speech.

Signals, errors and results are as in `jaxcodec.metrics.waveform`. Channels are averaged to one
first, as a single loudspeaker would play them.
"""

import contextlib
import itertools
import math

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike
from scipy import signal

from jaxcodec.metrics.waveform import Floats, check_rate, signal_pair

# STOI, as in section II of the paper.
STOI_RATE = 10_000  # Hz
STOI_WINDOW = 256  # samples
STOI_FFT = 512
STOI_BANDS = 15  # a third of an octave each
STOI_LOWEST = 150.0  # Hz, centre of the lowest band
STOI_SEGMENT = 30  # frames: 384 ms
STOI_CLIP = 10 ** (15 / 20)  # the lower bound on the signal-to-distortion ratio is -15 dB
STOI_DYNAMIC_RANGE = 40.0  # dB; frames further below the loudest one are silent

# The program behind PESQ writes beyond its memory after 50 utterances. They are 0.2 s at least, as
# are the pauses between them, so that 20 s hold no more.
PESQ_SECONDS = 20

EPS = float(np.finfo(np.float64).eps)


def stoi(reference: ArrayLike, estimate: ArrayLike, sample_rate: int) -> float:
  """Short-time objective intelligibility: about 0 for noise, 1 for a perfect copy.

  The classic measure, not the extended one. Any rate is resampled to 10 kHz by a Kaiser low-pass
  of 60 dB.
  Frames in which the reference lies 40 dB below its loudest frame are cut from both signals, and
  the last frame of a signal is left out, both as in the authors' program: figures agree with
  what others publish.
  Source: Taal et al., "An algorithm for intelligibility prediction of time-frequency weighted
  noisy speech", IEEE TASLP 19(7), 2011, https://doi.org/10.1109/TASL.2011.2114881.

  Raises:
    ValueError: if fewer than 30 frames of 25.6 ms, 12.8 ms apart (0.4 s), are left without the
      silent ones.
  """
  check_rate(sample_rate)
  x, y = (wave.mean(axis=1) for wave in signal_pair(reference, estimate))
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


def pesq(reference: ArrayLike, estimate: ArrayLike, sample_rate: int) -> float:
  """Perceptual evaluation of speech quality: MOS-LQO, from about 1 (bad) to 4.64 (a copy).

  Narrowband (ITU-T P.862) at 8 kHz; at every other rate wideband (P.862.2), after resampling to
  16 kHz. The two are different scales. Made for speech of 8 to 20 s: longer signals are scored in
  equal pieces of at most 20 s, and the pieces' mean is taken. It is `nan` where no piece has an
  utterance in it, or either signal is silent.
  Source: the program of the recommendation, through PyPI's `pesq`.

  Raises:
    ImportError: if `pesq` is not installed.
    ValueError: if the signals are shorter than 0.25 s.
  """
  check_rate(sample_rate)
  x, y = (wave.mean(axis=1) for wave in signal_pair(reference, estimate))
  try:
    import pesq as program
  except ImportError:
    raise ImportError("PESQ needs a package: pip install 'jaxcodec[metrics]'") from None
  rate = 8_000 if sample_rate == 8_000 else 16_000
  if len(x) < sample_rate / 4:
    raise ValueError(f"PESQ needs 0.25 s, the signals have {len(x) / sample_rate:.2f} s")
  if sample_rate != rate:
    x, y = (soxr.resample(wave, int(sample_rate), rate) for wave in (x, y))
  pieces = math.ceil(len(x) / (PESQ_SECONDS * rate))
  scores = []
  for part_x, part_y in zip(np.array_split(x, pieces), np.array_split(y, pieces), strict=True):
    # The program divides by the energies.
    if part_x.any() and part_y.any():
      with contextlib.suppress(program.NoUtterancesError):
        scores.append(program.pesq(rate, part_x, part_y, "nb" if rate == 8_000 else "wb"))
  return float(np.mean(scores)) if scores else math.nan


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
