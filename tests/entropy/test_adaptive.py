"""Adaptive range coding: exact codes back, near the entropy, integers decide."""

import constriction
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxcodec.entropy import adaptive, bits
from jaxcodec.errors import CodecError


def zipf(exponent, size, shape, seed=0):
  p = 1.0 / np.arange(1, size + 1) ** exponent
  return np.random.default_rng(seed).choice(size, shape, p=p / p.sum()).astype(np.int32)


def empirical_bytes(codes):
  total = 0.0
  for plane in np.moveaxis(codes, -1, 0):
    counts = np.bincount(plane.ravel())
    counts = counts[counts > 0]
    total -= (counts * np.log2(counts / counts.sum())).sum()
  return total / 8


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_round_trip(data):
  sizes = data.draw(st.lists(st.integers(1, 3000), min_size=1, max_size=4))
  shape = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 70)), len(sizes)
  rng = np.random.default_rng(data.draw(st.integers(0, 99)))
  codes = (rng.random(shape) ** data.draw(st.sampled_from([1, 4])) * sizes).astype(np.int32)
  prior = None
  if data.draw(st.booleans()):
    prior = rng.integers(0, 1 << 31, (len(sizes), max(sizes)))
    prior[np.arange(max(sizes)) >= np.asarray(sizes)[:, None]] = 0
  coded = adaptive.encode(codes, sizes, prior)
  got = adaptive.decode(coded, shape, sizes, prior)
  assert got.dtype == np.int32
  np.testing.assert_array_equal(got, codes)


def test_largest_alphabet_and_rarest_entry():
  codes = np.array([[[0], [65535], [65535], [1]]], np.int32)
  prior = np.zeros((1, 65536), np.int64)
  prior[0, 0] = (1 << 31) - 1
  for counts in (None, prior):
    coded = adaptive.encode(codes, [65536], counts)
    np.testing.assert_array_equal(adaptive.decode(coded, codes.shape, [65536], counts), codes)


def test_single_entries_and_no_frames_cost_nothing():
  assert adaptive.encode(np.zeros((2, 50, 3), np.int32), (1, 1, 1)) == b""
  assert adaptive.encode(np.zeros((2, 0, 3), np.int32), (9, 9, 9)) == b""
  assert adaptive.decode(b"", (2, 0, 3), (9, 9, 9)).shape == (2, 0, 3)


@pytest.mark.parametrize("seed", range(20))
def test_bytes_are_what_the_document_says(seed):
  # docs/bitstream.md, one code at a time, in Python's integers: `low` is all of the code word so
  # far, `words` of 32 bits and 64 bits that can still change.
  rng = np.random.default_rng(seed)
  size, frames = int(rng.integers(2, 40)), int(rng.integers(1, 200))
  codes = (rng.random(frames) ** 3 * size).astype(np.int32)
  counts = [1] * size
  low, width, words, start = 0, (1 << 64) - 1, 0, 0
  while start < frames:
    block = codes[start : start + max(8, start // 4)].tolist()
    cdf = [sum(counts[:k]) * ((1 << 24) - size) // sum(counts) + k for k in range(size + 1)]
    for code in block:
      low += (width >> 24) * cdf[code]
      width = (width >> 24) * (cdf[code + 1] - cdf[code])
      if width < 1 << 32:
        low, width, words = low << 32, width << 32, words + 1
      counts[code] += 4
    start += len(block)
  point, words = (low + (1 << 32) - 1) >> 32, words + 1
  if (low + width) >> 32 == point:
    point, words = point << 32, words + 1
  want = np.frombuffer(point.to_bytes(4 * words, "big"), ">u4").astype("<u4").tobytes()
  assert adaptive.encode(codes[None, :, None], [size]) == want


def test_golden_bytes():
  # 0 0 0 1 ten times: two words, each stored with its lowest byte first. They change only if the
  # rules of the docstring do, or the coder below them, and then files in the field break.
  codes, prior = (np.arange(40) % 4 == 3).astype(np.int32)[None, :, None], np.array([[9, 3, 0, 0]])
  assert adaptive.encode(codes, [4]).hex() == "0e4101016d0b4d59"
  assert adaptive.encode(codes, [4], prior).hex() == "32464b5a5df92edb"
  np.testing.assert_array_equal(
    adaptive.decode(bytes.fromhex("32464b5a5df92edb"), (1, 40, 1), [4], prior), codes
  )


def test_frequencies_reach_the_coder_unrounded():
  # An entry costs -log2 of its integer frequency over 2^24: here 2^24 - 1023 of it, and 1.
  table = np.ones(1024, np.int64)
  table[7] = 1 << 36
  encoder = constriction.stream.queue.RangeEncoder()
  model = adaptive._model(table)
  encoder.encode(np.full(200_000, 7, np.int32), model)
  assert encoder.num_bits() / 200_000 == pytest.approx(1023 / 2**24 / np.log(2), abs=1e-3)
  encoder.encode(np.full(1000, 8, np.int32), model)
  assert encoder.num_words() == pytest.approx(750, abs=4)  # 24 bits each.


@pytest.mark.parametrize(
  ("codes", "size", "excess"),
  # What is lost: learning the table, which costs about half a log2(count) for each entry.
  [(zipf(1.0, 256, (4, 10_000, 1)), 256, 0.006), (zipf(1.0, 1024, (4, 10_000, 2)), 1024, 0.015)],
)
def test_near_the_empirical_entropy_on_long_data(codes, size, excess):
  coded = len(adaptive.encode(codes, [size] * codes.shape[-1]))
  assert empirical_bytes(codes) < coded < empirical_bytes(codes) * (1 + excess)
  assert coded < 0.8 * bits.packed_bytes(codes.shape, bits.widths([size] * codes.shape[-1]))


def test_prior_helps_short_data():
  p = np.random.default_rng(1).dirichlet(np.full(1024, 0.5), 8)
  rng = np.random.default_rng(2)
  codes = np.stack([rng.choice(1024, (1, 100), p=row) for row in p], -1).astype(np.int32)
  sizes, prior = [1024] * 8, (p * 1e6).astype(np.int64)
  with_prior = len(adaptive.encode(codes, sizes, prior))
  assert with_prior < 0.95 * bits.packed_bytes(codes.shape, bits.widths(sizes))
  assert with_prior < 0.95 * len(adaptive.encode(codes, sizes))


def test_damaged_streams_raise_or_give_legal_codes():
  sizes, shape = (100, 1, 7), (2, 60, 3)
  rng = np.random.default_rng(0)
  coded = adaptive.encode(rng.integers(0, sizes, shape), sizes)
  raised = 0
  for _ in range(500):
    bad = bytearray(coded)
    match rng.integers(4):
      case 0:
        del bad[rng.integers(len(bad)) :]
      case 1:
        bad = bytearray(rng.bytes(len(bad)))
      case 2:
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
      case 3:
        bad += rng.bytes(rng.integers(1, 9))
    try:
      codes = adaptive.decode(bytes(bad), shape, sizes)
    except CodecError:
      raised += 1
    else:
      assert codes.shape == shape
      assert codes.min() >= 0
      assert (codes.max(axis=(0, 1)) < sizes).all()
  assert raised > 400  # Most are seen even here; the checksum of a record sees the rest.


@pytest.mark.parametrize(
  ("codes", "sizes", "prior"),
  [
    (np.zeros((1, 2), np.int32), [4, 4], None),
    (np.zeros((1, 2, 2), np.int32), [4], None),
    (np.full((1, 2, 1), 4), [4], None),
    (np.full((1, 2, 1), -1), [4], None),
    (np.zeros((1, 2, 1)), [4], None),
    (np.zeros((1, 2, 1), np.int32), [0], None),
    (np.zeros((1, 2, 1), np.int32), [65537], None),
    (np.zeros((1, 1, 17), np.int32), [65536] * 17, None),
    (np.zeros((1, 1 << 21, 3), np.int8), [4, 4, 4], None),
    (np.zeros((1, 2, 1), np.int32), [4], np.zeros((1, 3), int)),
    (np.zeros((1, 2, 1), np.int32), [4], np.ones((1, 5), int)),
    (np.zeros((1, 2, 1), np.int32), [4], np.full((1, 4), -1)),
    (np.zeros((1, 2, 1), np.int32), [4], np.full((1, 4), 1 << 31)),
    (np.zeros((1, 2, 1), np.int32), [4], np.ones((1, 4))),
  ],
)
def test_mistakes(codes, sizes, prior):
  with pytest.raises(ValueError):
    adaptive.encode(codes, sizes, prior)
