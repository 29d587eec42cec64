"""PSNR, MS-SSIM and BD-rate against definitions, and against what other packages gave."""

import math

import numpy as np
import pytest

from jaxcodec import metrics
from jaxcodec.metrics.picture import decibels


def pair(height: int, width: int, rng: np.random.Generator):
  """A picture of waves and noise and a noisier one, uint8."""
  rows, columns = np.mgrid[:height, :width]
  waves = [np.sin(rows / 9) + np.cos(columns / 7), np.sin((rows + columns) / 13), np.cos(rows / 5)]
  x = 60 * np.stack(waves, -1) + 128 + rng.normal(0, 9, (height, width, 3))
  x = np.clip(np.rint(x), 0, 255)
  return x, np.clip(np.rint(x + rng.normal(0, 12, x.shape)), 0, 255)


# pytorch-msssim 1.0.0, `ms_ssim(x, y, data_range=255)`; its window is float32.
MS_SSIM = {(161, 187): 0.9682415342, (200, 176): 0.9683446716, (256, 384): 0.9685751368}


def test_ms_ssim_is_that_of_pytorch_msssim():
  rng = np.random.default_rng(0)
  for size, expected in MS_SSIM.items():
    assert metrics.ms_ssim(*pair(*size, rng)) == pytest.approx(expected, abs=1e-6)


def test_psnr_is_its_definition():
  x = np.zeros((2, 2, 3))
  assert metrics.psnr(x, x + 255) == 0
  assert metrics.psnr(x, x + 25.5) == pytest.approx(20)
  assert metrics.psnr(x, x + 0.5, peak=1.0) == pytest.approx(20 * math.log10(2))
  assert metrics.psnr(x, x) == math.inf


def test_equal_pictures_are_alike_and_small_ones_refused():
  x = np.arange(161 * 170).reshape(161, 170) % 251
  assert metrics.ms_ssim(x, x) == pytest.approx(1)
  assert decibels(0.99) == pytest.approx(20)
  with pytest.raises(ValueError, match="sides of 161 pixels"):
    metrics.ms_ssim(x[:160], x[:160])
  with pytest.raises(ValueError, match="alike"):
    metrics.psnr(x, x[1:])
  with pytest.raises(ValueError, match="not finite"):
    metrics.psnr(x, np.where(x > 9, np.nan, x))


ANCHOR = [0.1129, 0.2458, 0.4905, 0.8748], [28.49, 31.20, 34.26, 37.42]
OTHER = [0.15, 0.31, 0.6, 1.1], [28.2, 31.0, 34.1, 36.9]


def test_bd_rate_is_that_of_the_package_bjontegaard():
  # bjontegaard 1.3.0, `bd_rate(..., method="pchip")`.
  assert metrics.bd_rate(*ANCHOR, *OTHER) == pytest.approx(31.841523312708, abs=1e-9)


def test_bd_rate_of_half_the_rate_is_minus_fifty_percent():
  halved = [rate / 2 for rate in ANCHOR[0]]
  assert metrics.bd_rate(*ANCHOR, halved, ANCHOR[1]) == pytest.approx(-50)
  # In whatever order the points stand.
  backwards = [list(reversed(part)) for part in (halved, ANCHOR[1])]
  assert metrics.bd_rate(*ANCHOR, *backwards) == pytest.approx(-50)


def test_bd_rate_of_curves_apart_is_undefined_and_broken_ones_are_refused():
  assert math.isnan(metrics.bd_rate(*ANCHOR, ANCHOR[0], [10, 11, 12, 13]))
  for wrong in (([1], [2]), ([1, 2], [3, 3]), ([0, 1], [2, 3]), ([1, 2, 3], [4, 5])):
    with pytest.raises(ValueError):
      metrics.bd_rate(*ANCHOR, *wrong)
