"""The coder's loops: every form against Python's integers, the kernels compiled for TPUs.

`tests/functional/test_rans.py` holds the streams made from it against NumPy.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tpu_topologies as topologies
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

from pallas_kernels import rans_decode, rans_encode
from pallas_kernels.rans_decode import tpu as decode_tpu
from pallas_kernels.rans_encode import tpu as encode_tpu

BACKENDS = ("reference", "interpret", None)


def intervals(steps, lanes, precision, seed=0):
  """Of every size, a symbol of all probability and the rarest at the top among them."""
  rng = np.random.default_rng(seed)
  freq = np.clip((2.0 ** rng.uniform(0, precision, (steps, lanes))).astype(np.int64), 1, None)
  start = (rng.random(freq.shape) * ((1 << precision) - freq)).astype(np.int64)
  start[::7, 0], freq[::7, 0] = 0, 1 << precision
  start[1::7, 0], freq[1::7, 0] = (1 << precision) - 1, 1
  return start.astype(np.uint32), freq.astype(np.uint32)


def encode_by_definition(start, freq, precision):
  states, words = [1 << 16] * start.shape[1], np.zeros(start.shape, np.uint32)
  written = np.zeros(start.shape, bool)
  for n in reversed(range(len(start))):
    for lane, state in enumerate(states):
      low, size = int(start[n, lane]), int(freq[n, lane])
      words[n, lane] = state & 0xFFFF
      written[n, lane] = state >= size << (32 - precision)
      if written[n, lane]:
        state >>= 16
      states[lane] = ((state // size) << precision) + state % size + low
  return np.array(states, np.uint32), words, written


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", [1, 9, 16])
def test_every_form_pushes_as_pythons_integers(precision, backend):
  # 70 steps and 1100 lanes are two blocks each, the second ragged.
  start, freq = intervals(70, 1100, precision)
  got = jax.jit(functools.partial(rans_encode, precision=precision, backend=backend))(start, freq)
  # Lanes of both blocks; Python is slow.
  some = np.r_[0:20, 1020:1040, 1099]
  want = encode_by_definition(start[:, some], freq[:, some], precision)
  for found, expected in zip(got, want, strict=True):
    np.testing.assert_array_equal(found[..., some], expected)


def test_the_quotient_is_exact_whatever_the_numbers():
  rng = np.random.default_rng(0)
  freq = np.r_[1, 2, 3, 255, 65535, 65536, rng.integers(1, 65537, 1000)].astype(np.int64)
  quotient = np.minimum(2**31 - 1, (2**32 - 1) // freq)
  for states in (quotient * freq, quotient * freq + freq - 1, freq - 1, freq):
    states = np.minimum(states, 2**32 - 1)
    got = jax.jit(encode_tpu.divide)(states.astype(np.uint32).view(np.int32), freq.astype(np.int32))
    inside = states // freq < 2**31
    for found, want in zip(got, np.divmod(states, freq), strict=True):
      np.testing.assert_array_equal(np.asarray(found)[inside], want[inside])


def packed(words, written):
  """Words [L, N], those of the first step first, and how many a lane has."""
  counts = written.sum(axis=0).astype(np.int32)
  out = np.zeros(words.T.shape, np.uint32)
  for lane, count in enumerate(counts):
    out[lane, :count] = words[written[:, lane], lane]
  return out, counts


def streams(steps, lanes, precision, tables=3):
  """`(words, counts, states, cdf, rows, symbols)`, encoded by Python's integers."""
  rng = np.random.default_rng(1)
  top = 1 << precision
  cdf = np.sort(rng.integers(0, top + 1, (tables, 8)), axis=1)  # Some intervals may be empty.
  cdf[:, 0], cdf[:, -1] = 0, top
  rows = rng.integers(0, tables, (steps, lanes))
  slot = rng.integers(0, top, rows.shape)
  symbols = (cdf[rows, :-1] <= slot[..., None]).sum(axis=-1) - 1
  start = cdf[rows, symbols]
  states, words, written = encode_by_definition(start, cdf[rows, symbols + 1] - start, precision)
  return *packed(words, written), states, cdf, rows, symbols


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", [9, 16])
def test_every_form_pops_what_was_pushed(precision, backend):
  *given, symbols = streams(70, 33, precision)
  decode = jax.jit(functools.partial(rans_decode, precision=precision, backend=backend))
  found, states, at = decode(*given)
  np.testing.assert_array_equal(found, symbols)
  np.testing.assert_array_equal(states, np.full(33, 1 << 16))
  np.testing.assert_array_equal(at, given[1])


def test_the_kernel_reads_damage_as_plain_jax_does_and_stays_in_range():
  words, counts, states, cdf, rows, _ = streams(70, 33, 9)
  rows[::3, 4], rows[1::3, 4] = -1, 7  # Tables that are none.
  words = np.random.default_rng(2).integers(0, 1 << 16, words.shape).astype(np.uint32)
  counts = counts.copy()
  counts[:5], counts[5:9] = 0, 10_000  # No words at all; more than there are.
  got, want = (
    jax.jit(functools.partial(rans_decode, precision=9, backend=backend))(
      words, counts, states, cdf, rows
    )
    for backend in ("interpret", "reference")
  )
  for found, expected in zip(got, want, strict=True):
    np.testing.assert_array_equal(found, expected)
  assert 0 <= got[0].min() <= got[0].max() < 7


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("steps", "lanes"), [(0, 3), (3, 0)])
def test_nothing_to_code_leaves_the_first_states(steps, lanes, backend):
  empty, first = np.ones((steps, lanes), np.uint32), np.full(lanes, 1 << 16, np.uint32)
  states, words, written = rans_encode(empty, empty, 12, backend=backend)
  np.testing.assert_array_equal(states, first)
  assert words.shape == written.shape == (steps, lanes)
  cdf, counts = np.array([[0, 1 << 12]]), np.zeros(lanes, np.int32)
  symbols, states, at = rans_decode(empty.T, counts, first, cdf, empty, 12, backend=backend)
  np.testing.assert_array_equal(states, first)
  np.testing.assert_array_equal(at, counts)
  assert symbols.shape == (steps, lanes)


@pytest.mark.slow
def test_blocks_do_not_race(capfd):
  *given, symbols = streams(70, 33, 12)
  cdf, rows = given[3:]
  start = cdf[rows, symbols]
  params = pltpu.InterpretParams(detect_races=True)

  @jax.jit
  def both(start, freq, *given):
    pushed = encode_tpu.rans_encode(start, freq, precision=12, interpret=params)
    return pushed.states, decode_tpu.rans_decode(*given, precision=12, interpret=params)[0]

  start, freq = (x.astype(np.uint32) for x in (start, cdf[rows, symbols + 1] - start))
  given[3:] = cdf.astype(np.uint32), rows.astype(np.int32)
  states, found = both(start, freq, *given)
  np.testing.assert_array_equal(states, given[2])
  np.testing.assert_array_equal(found, symbols)
  assert "RACE" not in capfd.readouterr().out


def test_lanes_over_eight_devices_are_as_on_one(mesh):
  start, freq = intervals(70, 16, 12)
  by_lane = P(None, "data")
  push = jax.shard_map(
    lambda start, freq: tuple(rans_encode(start, freq, 12)),
    mesh=mesh,
    in_specs=(by_lane, by_lane),
    out_specs=(P("data"), by_lane, by_lane),
  )
  want = encode_by_definition(start, freq, 12)
  for found, expected in zip(jax.jit(push)(start, freq), want, strict=True):
    np.testing.assert_array_equal(found, expected)


def test_wrong_calls_are_refused():
  with pytest.raises(ValueError, match=r"starts \(2, 1\) and frequencies \(1, 1\)"):
    rans_encode(np.zeros((2, 1)), np.ones((1, 1)), 16)
  with pytest.raises(ValueError, match="precision must be 1 to 16 bits, not 0"):
    rans_encode(np.zeros((1, 1)), np.ones((1, 1)), 0)
  words, counts, states, cdf, rows, _ = streams(2, 3, 9)
  with pytest.raises(ValueError, match=r"counts \(2,\), states \(3,\) and rows \(2, 3\) must be"):
    rans_decode(words, counts[:2], states, cdf, rows, 9)
  with pytest.raises(ValueError, match=r"cdf \(600, 8\) are more than the kernel takes"):
    rans_decode(words, counts, states, np.tile(cdf, (200, 1)), rows, 9, backend="interpret")
  with pytest.raises(ValueError, match=r"cdf must be \[R, K \+ 1\] .* got shape \(8,\)"):
    rans_decode(words, counts, states, cdf[0], rows, 9)


@pytest.mark.parametrize("generation", topologies.GENERATIONS)
def test_compiles_for_tpus_at_real_sizes(generation):
  x = jax.ShapeDtypeStruct((5000, 4096), jnp.uint32)
  encode = topologies.compile_for(generation, functools.partial(rans_encode, precision=16), x, x)
  # The most that the decoder's kernel takes: 1024 steps, 16 tables of 255 symbols.
  words, lane = x.update(shape=(8192, 1024)), x.update(shape=(8192,))
  given = words, lane, lane, x.update(shape=(16, 256)), x.update(shape=(1024, 8192))
  decode = topologies.compile_for(generation, functools.partial(rans_decode, precision=16), *given)
  for compiled in (encode, decode):
    assert len(topologies.kernels(compiled)) == 1
    assert topologies.vmem_bytes(compiled) < 12 << 20
