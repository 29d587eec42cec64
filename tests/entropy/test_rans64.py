import numpy as np
import pytest

from jaxcodec.entropy import rans64
from jaxcodec.errors import CodecError

CDFS, SIZES, OFFSETS = [[0, 60000, 65000, 65536, 0], [0, 1, 2, 20000, 65536]], [4, 5], [-1, -2]
# With escapes of 1, 15, 16 and 2^20 and their negatives. benchmarks/entropy.py compares at length.
SYMBOLS = [0, 1, -1, 15, -15, 16, -16, 2**20, -(2**20), 0, 0, 2, 0, -2, -1, 0, 1]
ROWS = [i % 2 for i in range(len(SYMBOLS))]
# What compressai 1.2.8 gave: its RansEncoder's encode_with_indexes, called with these five.
COMPRESSAI = bytes.fromhex("a0fce4bc761b1200b22174aad26174adff61f45fff1f9b320000560f")


def test_bytes_are_those_of_compressai():
  assert rans64.encode(SYMBOLS, ROWS, CDFS, SIZES, OFFSETS) == COMPRESSAI
  assert rans64.decode(COMPRESSAI, ROWS, CDFS, SIZES, OFFSETS).tolist() == SYMBOLS


def test_random_symbols_come_back():
  rng = np.random.default_rng(0)
  symbols, rows = rng.integers(-40, 40, 3000), rng.integers(0, 2, 3000)
  data = rans64.encode(symbols, rows, CDFS, SIZES, OFFSETS)
  np.testing.assert_array_equal(rans64.decode(data, rows, CDFS, SIZES, OFFSETS), symbols)


def test_nothing_is_eight_bytes():
  data = rans64.encode([], [], CDFS, SIZES, OFFSETS)
  assert len(data) == 8
  assert not len(rans64.decode(data, [], CDFS, SIZES, OFFSETS))


@pytest.mark.parametrize("data", [b"", COMPRESSAI[:-4], COMPRESSAI[:-1], COMPRESSAI + bytes(4)])
def test_cut_or_grown_streams_are_refused(data):
  with pytest.raises(CodecError, match="rANS stream"):
    rans64.decode(data, ROWS, CDFS, SIZES, OFFSETS)


def test_random_bytes_are_refused_or_decoded():
  rng = np.random.default_rng(1)
  refused = 0
  for _ in range(200):
    try:
      rans64.decode(rng.bytes(28), ROWS, CDFS, SIZES, OFFSETS)
    except CodecError:
      refused += 1
  assert refused == 200


def test_wrong_tables_and_far_symbols_are_refused():
  with pytest.raises(ValueError, match="table 1 does not rise"):
    rans64.encode([0], [0], [CDFS[0], [0, 5, 5, 65536]], [4, 4], OFFSETS)
  with pytest.raises(ValueError, match="further than"):
    rans64.encode([2**31 + 2], [0], CDFS, SIZES, OFFSETS)
