import math

import numpy as np
import pytest

from jaxcodec.metrics import bitrate, codebook_use


def test_use_and_perplexity_by_hand():
  # One of four entries, always; shares 1/2, 1/4, 1/4 of eight entries: 1.5 bit.
  codes = np.array([[[3, 0], [3, 0]], [[3, 5], [3, 7]]])
  use = codebook_use(codes, (4, 8))
  np.testing.assert_allclose(use.used, [1 / 4, 3 / 8])
  np.testing.assert_allclose(use.perplexity, [1, 2**1.5])


def test_a_codebook_used_evenly_has_its_size_as_perplexity():
  use = codebook_use(np.arange(1024)[:, None], (1024,))
  assert use.used == [1.0]
  assert use.perplexity == pytest.approx([1024])


@pytest.mark.parametrize(
  ("codes", "message"),
  [
    (np.zeros((2, 2)), "codes must be integers, got float64"),
    (np.zeros((2, 3), int), r"codes must be \[..., 2\], not empty; got \(2, 3\)"),
    (np.zeros((0, 2), int), "not empty"),
    (np.int32(1), "not empty"),
    ([[0, 8]], "codebook 1 has 8 entries"),
    ([[-1, 0]], "codebook 0 has 4 entries"),
  ],
)
def test_codes_that_do_not_fit_are_refused(codes, message):
  with pytest.raises(ValueError, match=message):
    codebook_use(codes, (4, 8))


def test_bitrate_counts_every_byte():
  assert bitrate(750, 2.0) == 3000
  assert bitrate(0, 1.0) == 0
  for num_bytes, seconds in ((1, 0.0), (-1, 1.0), (1, math.nan), (1, math.inf)):
    with pytest.raises(ValueError, match="has no bitrate"):
      bitrate(num_bytes, seconds)
