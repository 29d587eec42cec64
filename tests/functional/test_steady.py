"""Sums whose last bit depends on no length, as programs are compiled for users."""

import jax
import numpy as np
import pytest

from jaxcodec import functional as F

pytestmark = pytest.mark.optimized

steady_conv = jax.jit(F.steady_conv, static_argnames=("stride", "dilation"))
steady_lstm = jax.jit(lambda *given: F.lstm(*given, steady=True))


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Sums of 384, 512 and 1792 products, which XLA splits by how many there are, and of 320 and 21.
@pytest.mark.parametrize(
  ("width", "stride", "dilation", "features"),
  [(3, 1, 1, 128), (4, 2, 1, 128), (7, 1, 3, 256), (10, 5, 1, 32), (7, 1, 1, 3)],
)
def test_each_output_is_the_same_among_any_others(width, stride, dilation, features):
  span, steps = (width - 1) * dilation + 1, 300
  x, kernel = normal(3, (steps - 1) * stride + span, features), normal(width, features, 64)
  whole = np.asarray(steady_conv(x, kernel, stride=stride, dilation=dilation))
  plain = F.conv(x, kernel, stride=stride, dilation=dilation)
  np.testing.assert_allclose(whole, plain, rtol=0, atol=1e-6 * width * features)
  for start, count, rows in ((0, 1, 1), (7, 1, 3), (40, 2, 1), (90, 13, 1), (9, 130, 2)):
    part = x[:rows, start * stride : (start + count - 1) * stride + span]
    found = steady_conv(part, kernel, stride=stride, dilation=dilation)
    np.testing.assert_array_equal(found, whole[:rows, start : start + count])
    np.testing.assert_array_equal(
      F.steady_conv(part, kernel, stride=stride, dilation=dilation), found
    )


def test_an_lstm_in_parts_and_alone_is_the_whole_to_the_last_bit():
  x, width = normal(3, 90, 384), 384
  weights = normal(384, 4 * width, seed=1), normal(width, 4 * width, seed=2), normal(4 * width)
  weights = jax.tree.map(lambda w: 0.05 * w, weights)
  whole = np.asarray(steady_lstm(x, *weights)[0])
  np.testing.assert_allclose(whole, F.lstm(x, *weights)[0], rtol=0, atol=1e-5)
  for rows in (1, 3):
    state, parts = None, []
    for start, stop in ((0, 1), (1, 20), (20, 90)):
      y, state = steady_lstm(x[:rows, start:stop], *weights, state)
      parts.append(np.asarray(y))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole[:rows])
