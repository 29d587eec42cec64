"""Fixed-width packing: exact sizes, exact bits, exact codes back."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxcodec.entropy import bits
from jaxcodec.errors import CodecError


def test_widths_are_the_ceiling_of_log2():
  assert bits.widths([1, 2, 3, 4, 5, 1024, 1025, 65536]) == (0, 1, 2, 2, 3, 10, 11, 16)


def test_bits_run_from_the_highest_down_frame_by_frame():
  # Widths 3 and 2: frame 0 is 101 01, frame 1 is 011 10; together 10101011 10 and six zeros.
  codes = np.array([[[5, 1], [3, 2]]], np.int32)
  assert bits.pack(codes, (3, 2)) == bytes([0b10101011, 0b10000000])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_round_trip(data):
  sizes = data.draw(st.lists(st.integers(1, 65536), min_size=1, max_size=5))
  shape = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 20)), len(sizes)
  rng = np.random.default_rng(data.draw(st.integers(0, 99)))
  codes = rng.integers(0, sizes, shape).astype(np.int32)
  packed = bits.pack(codes, bits.widths(sizes))
  assert len(packed) == bits.packed_bytes(shape, bits.widths(sizes))
  got = bits.unpack(packed, shape, bits.widths(sizes))
  assert got.dtype == np.int32
  np.testing.assert_array_equal(got, codes)


def test_round_trip_over_many_steps(monkeypatch):
  monkeypatch.setattr(bits, "_BITS_PER_STEP", 64)
  codes = np.random.default_rng(0).integers(0, (9, 1, 1000), (2, 101, 3)).astype(np.int32)
  packed = bits.pack(codes, (4, 0, 10))
  monkeypatch.undo()
  assert packed == bits.pack(codes, (4, 0, 10))
  monkeypatch.setattr(bits, "_BITS_PER_STEP", 64)
  np.testing.assert_array_equal(bits.unpack(packed, codes.shape, (4, 0, 10)), codes)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x00\x00", b"\x00\x01"])
def test_wrong_length_or_padding_is_damage(data):
  with pytest.raises(CodecError):
    bits.unpack(data, (1, 3, 1), (5,))  # 15 bits: two bytes, of which the last bit is padding.


@pytest.mark.parametrize("code", [-1, 8, 1 << 30])
def test_code_that_does_not_fit_is_a_mistake(code):
  with pytest.raises(ValueError):
    bits.pack(np.array([[[code]]]), (3,))


def test_other_mistakes():
  with pytest.raises(ValueError):
    bits.pack(np.zeros((1, 1, 2), np.int32), (3,))
  with pytest.raises(ValueError):
    bits.pack(np.zeros((1, 1, 1)), (3,))
  with pytest.raises(ValueError):
    bits.unpack(b"", (1, 0, 1), (32,))
