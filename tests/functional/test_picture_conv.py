"""Convolutions of pictures against sums that are written out."""

import jax
import numpy as np
import pytest

from jaxcodec import functional as F

RNG = np.random.default_rng(0)


def transposed(x, kernel, stride):
  """Each input's products are added where they fall; the rim is cut as PyTorch cuts it."""
  height, width, _ = x.shape
  size, _, _, features = kernel.shape
  out = np.zeros((height * stride + size, width * stride + size, features))
  for row, column in np.ndindex(height, width):
    part = np.einsum("c,ijco->ijo", x[row, column], kernel)
    out[row * stride : row * stride + size, column * stride : column * stride + size] += part
  cut = size // 2
  return out[cut : cut + height * stride, cut : cut + width * stride]


# Features on both sides of where the form changes.
@pytest.mark.parametrize(("size", "stride", "features"), [(5, 2, 3), (5, 2, 16), (3, 1, 16)])
def test_transposed_convolution_adds_up(size, stride, features):
  x = RNG.normal(size=(1, 3, 5, 4)).astype(np.float32)
  kernel = RNG.normal(size=(size, size, 4, features)).astype(np.float32)
  y = jax.jit(lambda x, kernel: F.conv2d_transpose(x, kernel, stride=stride))(x, kernel)
  np.testing.assert_allclose(y[0], transposed(x[0], kernel, stride), atol=2e-5)


def test_masks_are_what_their_names_say():
  assert F.raster_mask(5)[..., 0, 0].ravel().tolist() == [1.0] * 12 + [0.0] * 13
  seen = F.checkerboard_mask(5)[..., 0, 0]
  assert (seen.sum(), seen[2, 2], seen[2, 1], seen[1, 1]) == (12, 0, 1, 0)
  colors = np.asarray(F.checkerboard(2, 3))[..., 0]
  np.testing.assert_array_equal(colors, [[True, False, True], [False, True, False]])
