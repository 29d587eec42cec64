import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.entropy import lanes
from jaxcodec.functional import rans


def tables(rng, rows, entries, precision):
  """Random tables, one of a single entry among them where there is room."""
  cdf = np.zeros((rows, entries + 1), np.int64)
  for row in cdf:
    weights = rng.gamma(0.3, size=entries) + 1e-6
    inner = np.cumsum(weights)[:-1] / weights.sum() * ((1 << precision) - entries)
    row[1:-1] = np.floor(inner) + np.arange(1, entries)
    row[-1] = 1 << precision
  cdf[0, 1:] = 1 << precision
  return cdf


def drawn(rng, cdf, steps, lanes, precision):
  """Rows, and symbols as likely as their tables say."""
  rows = rng.integers(0, len(cdf), (steps, lanes))
  slot = rng.integers(0, 1 << precision, rows.shape)
  symbols = (cdf[rows] <= slot[..., None]).sum(axis=-1) - 1
  return rows, symbols


def intervals(cdf, rows, symbols):
  start = cdf[rows, symbols]
  return start.astype(np.uint32), (cdf[rows, symbols + 1] - start).astype(np.uint32)


@pytest.mark.parametrize("precision", [9, 16])
def test_lanes_equal_the_numpy_reference_and_come_back(precision):
  rng = np.random.default_rng(precision)
  cdf = tables(rng, 5, 100, precision)
  rows, symbols = drawn(rng, cdf, 200, 33, precision)
  start, freq = intervals(cdf, rows, symbols)
  streams = jax.jit(rans.encode, static_argnums=2)(start, freq, precision)
  expected = lanes.encode(start, freq, precision)
  for got, want in zip(streams, expected, strict=True):
    np.testing.assert_array_equal(got, want)
    assert got.dtype == want.dtype
  decode = jax.jit(rans.decode, static_argnums=3)
  found, intact = decode(streams, jnp.asarray(cdf, jnp.uint32), rows, precision)
  np.testing.assert_array_equal(found, symbols)
  assert intact.all()
  found, intact = lanes.decode(*expected, cdf, rows, precision)
  np.testing.assert_array_equal(found, symbols)
  assert intact.all()


def test_eager_equals_compiled():
  rng = np.random.default_rng(0)
  cdf = tables(rng, 3, 6, 12)
  rows, symbols = drawn(rng, cdf, 7, 3, 12)
  compiled = rans.encode(*intervals(cdf, rows, symbols), 12)
  with jax.disable_jit():
    eager = rans.encode(*intervals(cdf, rows, symbols), 12)
    found, intact = rans.decode(eager, jnp.asarray(cdf, jnp.uint32), rows, 12)
  for a, b in zip(compiled, eager, strict=True):
    np.testing.assert_array_equal(a, b)
  np.testing.assert_array_equal(found, symbols)
  assert intact.all()


def test_a_hundred_thousand_symbols_cost_a_thousandth_more_than_their_information():
  rng = np.random.default_rng(1)
  cdf = tables(rng, 8, 256, 16)
  rows, symbols = drawn(rng, cdf, 25_000, 4, 16)
  start, freq = intervals(cdf, rows, symbols)
  _, counts, states = lanes.encode(start, freq, 16)
  ideal = (16 - np.log2(freq)).sum()
  assert ideal < 8 * (2 * counts.sum() + 4 * len(states)) < 1.001 * ideal


def test_no_lane_writes_more_than_a_word_a_symbol():
  start = np.full((50, 2), (1 << 16) - 1, np.uint32)
  words, counts, _ = lanes.encode(start, np.ones_like(start), 16)
  assert words.shape == (2, 50)
  assert (counts == 50).all()


def test_damage_gives_symbols_in_range_and_is_seen():
  rng = np.random.default_rng(2)
  cdf = tables(rng, 4, 50, 16)
  rows, symbols = drawn(rng, cdf, 100, 16, 16)
  words, counts, states = lanes.encode(*intervals(cdf, rows, symbols), 16)
  damaged = rng.integers(0, 1 << 16, words.shape, np.uint32)
  streams = rans.Streams(jnp.asarray(damaged), jnp.asarray(counts), jnp.asarray(states))
  found, intact = jax.jit(rans.decode, static_argnums=3)(
    streams, jnp.asarray(cdf, jnp.uint32), rows, 16
  )
  assert 0 <= found.min() <= found.max() < 50
  assert not intact.any()
  again, seen = lanes.decode(damaged, counts, states, cdf, rows, 16)
  np.testing.assert_array_equal(found, again)
  np.testing.assert_array_equal(intact, seen)


def test_wrong_calls_are_refused():
  with pytest.raises(ValueError, match=r"precision must be 1 to 16"):
    rans.encode(jnp.zeros((1, 1)), jnp.ones((1, 1)), 17)
  with pytest.raises(ValueError, match=r"must be \[N, L\] both"):
    rans.encode(jnp.zeros((2, 1)), jnp.ones((1, 1)), 16)


def test_lanes_on_eight_devices_give_the_same_words(mesh):
  rng = np.random.default_rng(3)
  cdf = tables(rng, 4, 20, 16)
  rows, symbols = drawn(rng, cdf, 40, 16, 16)
  start, freq = intervals(cdf, rows, symbols)
  by_lane = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
  given = [jax.device_put(x, by_lane) for x in (start, freq)]
  streams = jax.jit(rans.encode, static_argnums=2)(*given, 16)
  for got, want in zip(streams, lanes.encode(start, freq, 16), strict=True):
    np.testing.assert_array_equal(got, want)
