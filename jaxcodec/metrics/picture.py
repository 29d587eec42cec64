"""What remains of a picture: PSNR and MS-SSIM; and what one codec's curve saves on another's.

Plain NumPy in float64, as `metrics.waveform` has it. Pictures are `[height, width, channels]` or
`[height, width]`, bytes or floats from 0 to `peak`; both have the same shape.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import correlate1d

Floats = NDArray[np.float64]

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
SMALLEST = (_WINDOW - 1) * 2 ** (len(_WEIGHTS) - 1) + 1  # Of a side, for MS-SSIM.


def psnr(reference: ArrayLike, estimate: ArrayLike, peak: float = 255.0) -> float:
  """Peak signal-to-noise ratio in dB over all channels together; `inf` for equal pictures."""
  x, y = _pair(reference, estimate)
  error = np.mean((x - y) ** 2)
  return 10 * math.log10(peak**2 / error) if error else math.inf


def ms_ssim(reference: ArrayLike, estimate: ArrayLike, peak: float = 255.0) -> float:
  """Multi-scale structural similarity, at most 1: of each channel, then their mean.

  Five scales, a Gaussian window of 11 pixels and sigma 1.5 where it lies within the picture, each
  scale the mean of 2 x 2 of the one before; what is below zero counts as zero. Source: Wang et al.,
  "Multi-scale structural similarity for image quality assessment", 2003.

  Raises:
    ValueError: as every measure, and if a side has fewer than 161 pixels.
  """
  x, y = _pair(reference, estimate)
  if min(x.shape[:2]) < SMALLEST:
    raise ValueError(f"MS-SSIM needs sides of {SMALLEST} pixels, not {x.shape[:2]}")
  product = np.ones(x.shape[2])
  for scale, weight in enumerate(_WEIGHTS):
    similarity, contrast = _ssim(x, y, peak)
    last = scale == len(_WEIGHTS) - 1
    product *= np.maximum(similarity if last else contrast, 0) ** weight
    if not last:
      x, y = _halved(x), _halved(y)
  return float(product.mean())


def decibels(similarity: float) -> float:
  """MS-SSIM on a scale on which curves are told apart: -10 log10(1 - s)."""
  return math.inf if similarity >= 1 else -10 * math.log10(1 - similarity)


def bd_rate(
  anchor_rates: Sequence[float],
  anchor_quality: Sequence[float],
  rates: Sequence[float],
  quality: Sequence[float],
) -> float:
  """Bjøntegaard's delta: the mean difference of rate at equal quality, in percent of the anchor's.

  The logarithm of the rate is interpolated over quality by monotone cubics (PCHIP), and averaged
  where both curves have points. Below zero the second curve takes fewer bits; `nan` if the curves
  have no quality in common. Source: Bjøntegaard, VCEG-M33 and VCEG-AI11.

  Raises:
    ValueError: if a curve has fewer than two points, a rate is not above zero, or two points of a
      curve have one quality.
  """
  curves = [_curve(*points) for points in ((anchor_rates, anchor_quality), (rates, quality))]
  low = max(float(x[0]) for x, _ in curves)
  high = min(float(x[-1]) for x, _ in curves)
  if low >= high:
    return math.nan
  anchor, other = (PchipInterpolator(x, y).integrate(low, high) for x, y in curves)
  return 100 * (math.exp((other - anchor) / (high - low)) - 1)


def _curve(rates: Sequence[float], quality: Sequence[float]) -> tuple[Floats, Floats]:
  """Quality, rising, and the logarithm of the rate."""
  if len(rates) != len(quality) or len(rates) < 2:
    raise ValueError(
      f"a curve has two points and more, each a rate and a quality, not {len(rates)}"
    )
  order = np.argsort(quality)
  x, y = np.asarray(quality, np.float64)[order], np.asarray(rates, np.float64)[order]
  if not np.isfinite([x, y]).all() or not (y > 0).all() or not (np.diff(x) > 0).all():
    raise ValueError("the rates of a curve are above zero, and no two points have one quality")
  return x, np.log(y)


def _ssim(x: Floats, y: Floats, peak: float) -> tuple[Floats, Floats]:
  """Means over the picture of SSIM and of its contrast and structure alone, `[channels]`."""
  c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
  mean_x, mean_y = _blurred(x), _blurred(y)
  var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
  covariance = _blurred(x * y) - mean_x * mean_y
  contrast = (2 * covariance + c2) / (var_x + var_y + c2)
  similarity = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * contrast
  return similarity.mean(axis=(0, 1)), contrast.mean(axis=(0, 1))


def _blurred(x: Floats) -> Floats:
  steps = np.arange(_WINDOW) - _WINDOW // 2
  window = np.exp(-(steps**2) / (2 * _SIGMA**2))
  window /= window.sum()
  inside = slice(_WINDOW // 2, -(_WINDOW // 2))
  rows = correlate1d(x, window, axis=0, mode="constant")[inside]
  return correlate1d(rows, window, axis=1, mode="constant")[:, inside]


def _halved(x: Floats) -> Floats:
  # An odd side has a zero before it, as in the programs that figures are compared with.
  x = np.pad(x, [(side % 2, 0) for side in x.shape[:2]] + [(0, 0)])
  height, width = x.shape[0] // 2, x.shape[1] // 2
  return x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).mean(axis=(1, 3))


def _pair(reference: ArrayLike, estimate: ArrayLike) -> tuple[Floats, Floats]:
  """Both pictures as float64 `[height, width, channels]`, checked."""
  x, y = np.asarray(reference, np.float64), np.asarray(estimate, np.float64)
  if x.shape != y.shape or x.ndim not in (2, 3) or not x.size:
    raise ValueError(f"pictures are [height, width, channels] and alike: {x.shape} and {y.shape}")
  if not np.isfinite(x).all() or not np.isfinite(y).all():
    raise ValueError("a picture holds values that are not finite")
  return x.reshape(*x.shape[:2], -1), y.reshape(*x.shape[:2], -1)
