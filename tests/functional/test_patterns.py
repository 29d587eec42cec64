"""Orders of codes: what stands where, and that it comes back."""

import numpy as np
import pytest

from jaxcodec import functional as F


def test_patterns_are_those_of_the_paper():
  # Two frames of three codebooks, frame 0 and 1.
  flat = [[0, -1, -1], [-1, 0, -1], [-1, -1, 0], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
  np.testing.assert_array_equal(F.flat_pattern(2, 3), flat)
  np.testing.assert_array_equal(F.parallel_pattern(2, 3), [[0, 0, 0], [1, 1, 1]])
  delay = [[0, -1, -1], [1, 0, -1], [-1, 1, 0], [-1, -1, 1]]
  np.testing.assert_array_equal(F.delay_pattern(2, 3), delay)


@pytest.mark.parametrize("order", [F.flat_pattern, F.parallel_pattern, F.delay_pattern])
def test_every_code_stands_once_and_comes_back(order):
  codes = np.arange(2 * 5 * 3).reshape(2, 5, 3)
  pattern = order(5, 3)
  sequence = np.asarray(F.arranged(codes, pattern))
  assert sorted(sequence[sequence >= 0]) == list(range(30))
  np.testing.assert_array_equal(sequence[0] < 0, pattern < 0)
  np.testing.assert_array_equal(F.restored(sequence, pattern), codes)


def test_codebooks_are_delayed_by_their_number():
  codes = np.arange(1, 7).reshape(1, 3, 2)
  wanted = [[1, -1], [3, 2], [5, 4], [-1, 6]]
  np.testing.assert_array_equal(F.arranged(codes, F.delay_pattern(3, 2))[0], wanted)
