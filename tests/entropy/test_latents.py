"""Rounded latents under tables: bytes and back, what they cost, what is refused."""

import itertools

import numpy as np
import pytest
from scipy import special

from jaxcodec.entropy import latents, tables
from jaxcodec.errors import CodecError
from jaxcodec.functional.exact import UNIT

CDF = latents.normal_tables()
SCALES = np.exp(np.linspace(np.log(0.11), np.log(256), 64))


def drawn(size=4000, widest=40):
  rng = np.random.default_rng(0)
  rows = rng.integers(0, widest, size)
  return np.rint(rng.normal(size=size) * SCALES[rows]), rows


def test_symbols_come_back_for_the_bits_that_they_are_worth():
  symbols, rows = drawn()
  data = latents.encode(symbols, rows, CDF)
  found, at = latents.decode(data + b"more", 0, rows, CDF)
  np.testing.assert_array_equal(found, symbols)
  assert at == len(data)
  scales = SCALES[rows] * np.sqrt(2)
  upper, lower = ((symbols + end) / scales for end in (0.5, -0.5))
  bits = -np.log2((special.erf(upper) - special.erf(lower)) / 2).sum()
  assert bits < 8 * len(data) < 1.001 * bits + 80


def test_far_symbols_are_escaped():
  symbols = np.array([0, 255, 256, -255, -256, 1 << 20, -(1 << 20), 3])
  rows = np.array([0, 0, 1, 1, 2, 2, 0, 0])
  data = latents.encode(symbols, rows, CDF)
  np.testing.assert_array_equal(latents.decode(data, 0, rows, CDF)[0], symbols)
  with pytest.raises(ValueError, match="1048577 steps from its mean"):
    latents.encode(np.array([-(1 << 20) - 1]), rows[:1], CDF)


def test_no_symbols_are_a_byte():
  nothing = np.zeros(0, int)
  assert latents.encode(nothing, nothing, CDF) == b"\0"
  assert len(latents.decode(b"\0", 0, nothing, CDF)[0]) == 0


def test_a_scale_has_the_nearest_table():
  rows = latents.normal_rows(np.round(SCALES * UNIT))
  np.testing.assert_array_equal(rows, np.arange(64))
  np.testing.assert_array_equal(latents.normal_rows(np.array([-5, 0, 1 << 22])), [0, 0, 63])
  steps = np.diff(np.log(SCALES)).mean()
  between = np.exp(np.log(SCALES[20]) + steps * np.array([0.45, 0.55]))
  np.testing.assert_array_equal(latents.normal_rows(between * UNIT), [20, 21])


def test_tables_are_normal_and_no_entry_is_empty():
  frequencies = np.diff(CDF, axis=1)
  assert frequencies.min() >= 1
  assert (frequencies.sum(axis=1) == 1 << 24).all()
  k = np.arange(-255, 256)
  want = special.ndtr((k + 0.5) / SCALES[30]) - special.ndtr((k - 0.5) / SCALES[30])
  np.testing.assert_allclose(frequencies[30, :-1] / 2**24, want, atol=4e-5)


def test_damage_is_seen_or_decodes_to_other_symbols():
  symbols, rows = drawn(300)
  data = latents.encode(symbols, rows, CDF)
  refused = 0
  for seed in range(60):
    rng = np.random.default_rng(seed)
    damaged = bytearray(data)
    damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
    cut = rng.integers(len(data)) if seed % 3 == 0 else len(data)
    try:
      found, at = latents.decode(bytes(damaged[:cut]), 0, rows, CDF)
      assert at <= cut
      assert np.abs(found).max() <= latents.MOST
    except CodecError:
      refused += 1
  assert refused >= 20


def test_an_escape_too_far_is_refused():
  row = np.zeros(1, np.int32)
  words = tables.encode(row + latents.SIZE - 1, row, CDF, 24)
  data = bytes([len(words) // 4]) + words + b"\xff\xff\xff\x01"
  with pytest.raises(CodecError, match="too far from its mean"):
    latents.decode(data, 0, row, CDF)
  with pytest.raises(CodecError, match="latents ends within a number"):
    latents.decode(data[:-1], 0, row, CDF)


def test_parts_of_a_stream_are_read_as_they_were_put():
  symbols, rows = drawn(600)
  symbols[[3, 250, 599]] = 300, -5000, 256
  writer, bounds = latents.Writer(CDF), (0, 1, 200, 200, 600)
  for start, stop in itertools.pairwise(bounds):
    writer.put(symbols[start:stop], rows[start:stop])
  data = writer.done() + b"more"
  reader = latents.Reader(data, 0, CDF)
  for start, stop in itertools.pairwise(bounds):
    np.testing.assert_array_equal(reader.take(rows[start:stop]), symbols[start:stop])
  assert reader.finish() == len(data) - 4
  one = latents.encode(symbols, rows, CDF)
  assert (
    abs(len(one) - len(data) + 4) <= 4
  )  # A stream of many parts costs what one of one part does.
  unread = latents.Reader(data, 0, CDF)
  unread.take(rows[:100])
  with pytest.raises(CodecError, match="goes on after the last symbol"):
    unread.finish()
