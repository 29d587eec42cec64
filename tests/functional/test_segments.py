import numpy as np
import pytest

from jaxcodec import functional as F


def overlap_add_by_definition(segments, stride, length, sizes=None):
  batch, count, size, channels = segments.shape
  total, weights = np.zeros((batch, length, channels)), np.zeros(length)
  for s in range(count):
    for i in range(size if sizes is None else sizes[s]):
      t = s * stride + i
      if t < length:
        weight = 0.5 - abs((i + 1) / (size + 1) - 0.5)
        total[:, t] += weight * segments[:, s, i]
        weights[t] += weight
  return total / weights[:, None]


@pytest.mark.parametrize(
  ("size", "stride", "count", "length"),
  [(8, 8, 3, 24), (8, 6, 3, 20), (8, 4, 4, 20), (9, 7, 2, 8), (8, 6, 3, 13), (5, 4, 1, 3)],
)
def test_overlap_add_is_the_weighted_mean(size, stride, count, length):
  segments = np.random.default_rng(0).normal(size=(2, count, size, 3)).astype(np.float32)
  got = F.overlap_add(segments, stride, length)
  assert got.shape == (2, length, 3)
  np.testing.assert_allclose(got, overlap_add_by_definition(segments, stride, length), atol=1e-6)


def test_short_segments_weigh_only_where_they_are():
  segments = np.random.default_rng(0).normal(size=(2, 3, 8, 3)).astype(np.float32)
  sizes = (8, 7, 1)
  got = F.overlap_add(segments, 6, 13, sizes)
  want = overlap_add_by_definition(segments, 6, 13, sizes)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_segments_of_one_signal_join_to_it():
  x = np.random.default_rng(0).normal(size=(1, 26, 2)).astype(np.float32)
  segments = np.stack([x[:, s : s + 8] for s in range(0, 19, 6)], axis=1)
  np.testing.assert_allclose(F.overlap_add(segments, 6, 26), x, rtol=1e-6)


def test_more_than_two_segments_at_a_sample_are_refused():
  with pytest.raises(ValueError, match="overlap more than once at stride 3"):
    F.overlap_add(np.zeros((1, 2, 7, 1), np.float32), 3, 10)
