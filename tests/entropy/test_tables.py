import numpy as np
import pytest

from jaxcodec.entropy import tables
from jaxcodec.errors import CodecError

CDF = np.array([[0, 1, 2, 65536], [0, 30000, 60000, 65536], [0, 65534, 65535, 65536]])


def drawn(count):
  rng = np.random.default_rng(0)
  rows = rng.integers(0, 3, count)
  slot = rng.integers(0, 1 << 16, count)
  return ((CDF[rows] <= slot[:, None]).sum(axis=1) - 1).astype(np.int32), rows


@pytest.mark.parametrize("count", [0, 1, 10_000])
def test_symbols_come_back(count):
  symbols, rows = drawn(count)
  found = tables.decode(tables.encode(symbols, rows, CDF), rows, CDF)
  np.testing.assert_array_equal(found, symbols)
  assert found.dtype == np.int32


def test_a_hundred_thousand_symbols_cost_a_thousandth_more_than_their_information():
  symbols, rows = drawn(100_000)
  freq = CDF[rows, symbols + 1] - CDF[rows, symbols]
  ideal = (16 - np.log2(freq)).sum()
  assert ideal < 8 * len(tables.encode(symbols, rows, CDF)) < 1.001 * ideal


def test_damage_is_refused_or_decodes_in_range():
  symbols, rows = drawn(1000)
  data = tables.encode(symbols, rows, CDF)
  with pytest.raises(CodecError, match="not whole 32-bit words"):
    tables.decode(data[:-1], rows, CDF)
  with pytest.raises(CodecError, match="goes on"):
    tables.decode(data + bytes(8), rows, CDF)
  rng = np.random.default_rng(1)
  for _ in range(50):
    try:
      found = tables.decode(rng.bytes(len(data)), rows, CDF)
      assert 0 <= found.min() <= found.max() < 3
    except CodecError:
      pass


def test_wrong_calls_are_refused():
  symbols, rows = drawn(10)
  with pytest.raises(ValueError, match="rise strictly"):
    tables.encode(symbols, rows, np.array([[0, 5, 5, 65536]] * 3))
  with pytest.raises(ValueError, match=r"within 0\.\.2"):
    tables.encode(symbols, rows + 1, CDF)
  with pytest.raises(ValueError, match="outside its table"):
    tables.encode(symbols + 3, rows, CDF)
