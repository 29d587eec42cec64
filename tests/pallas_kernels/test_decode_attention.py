import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from pallas_kernels import attention, decode_attention, quantize_pages
from pallas_kernels.attention import Lengths
from pallas_kernels.decode_attention.pages import dequantize_pages

ROWS, PAGES, SIZE, HEADS, GROUP, D = 3, 7, 128, 2, 4, 32
LENGTHS = np.array([0, 300, 128], np.int32)
TABLE = np.array([[6, 6, 6], [4, 0, 2], [1, 999, -5]], np.int32)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def cache(bits, value_group=D):
  k, v = normal(PAGES, SIZE, HEADS, D, seed=1), normal(PAGES, SIZE, HEADS, D, seed=2)
  make = functools.partial(quantize_pages, bits=bits, key_group=32, value_group=value_group)
  return jax.tree.map(np.asarray, jax.jit(make)(k, v))


@pytest.fixture(scope="module")
def query():
  return normal(ROWS, HEADS * GROUP, D)


CASES = [((8, 8), 32, None), ((4, 2), 16, None), ((2, 4), 32, 3.0)]


@pytest.mark.parametrize(("bits", "value_group", "soft_cap"), CASES)
def test_it_is_attention_to_the_dequantized_pages(query, bits, value_group, soft_cap):
  pages = cache(bits, value_group)
  assert pages.bits == bits
  f = functools.partial(decode_attention, soft_cap=soft_cap)

  @jax.jit
  def run(q, pages):
    got = [f(q, pages, TABLE, LENGTHS, backend=backend) for backend in ("interpret", None)]
    k, v = (
      jnp.swapaxes(x[np.clip(TABLE, 0, PAGES - 1)], 2, 3).reshape(ROWS, 3 * SIZE, HEADS, D)
      for x in dequantize_pages(pages)
    )
    mask = Lengths(LENGTHS)
    whole = attention(q[:, None], k, v, mask=mask, soft_cap=soft_cap, backend="reference")
    return *got, whole[:, 0]

  *got, right = run(query, pages)
  assert not right[0].any()
  for y in got:
    np.testing.assert_allclose(y, right, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_values_come_back_within_half_a_step(bits):
  k, v = normal(PAGES, SIZE, HEADS, D, seed=1), normal(PAGES, SIZE, HEADS, D, seed=2)
  pages = cache((bits, bits))
  for x, back, scale in zip(
    (k, v),
    jax.jit(dequantize_pages)(pages),
    (np.repeat(pages.k_scale, 32, axis=2), np.swapaxes(pages.v_scale, 2, 3)),
    strict=True,
  ):
    assert (np.abs(np.swapaxes(back, 1, 2) - x) <= np.swapaxes(scale, 1, 2) * 0.5001).all()


def test_what_lies_past_the_end_changes_nothing(query):
  pages = cache((4, 2), 16)
  spoilt = pages._replace(
    **{name: np.array(getattr(pages, name)) for name in ("k_scale", "v_scale", "v_offset")}
  )
  for name in ("k_scale", "v_scale", "v_offset"):
    getattr(spoilt, name)[[3, 5, 6]] = np.nan  # Pages that no row uses.
  spoilt.v_scale[2, ..., 300 - 256 :] = np.nan  # The unused end of row 1's last page.
  f = jax.jit(
    lambda q, pages: [
      decode_attention(q, pages, TABLE, LENGTHS, backend=backend) for backend in ("interpret", None)
    ]
  )
  for a, b in zip(f(query, pages), f(query, spoilt), strict=True):
    np.testing.assert_array_equal(a, b)


def test_bfloat16_queries_and_no_races(query, capfd):
  q, pages = query.astype(jnp.bfloat16), cache((4, 2), 16)
  f = jax.jit(
    lambda q: [decode_attention(q, pages, TABLE, LENGTHS, backend=b) for b in ("races", None)]
  )
  got, right = (np.asarray(y, np.float32) for y in f(q))
  np.testing.assert_allclose(got, right, atol=3e-2)  # Weights and keys have 8 bits.
  assert "RACE" not in capfd.readouterr().out


def test_rows_may_lie_on_several_devices(mesh, query):
  pages = cache((4, 2), 16)
  q, table = np.tile(query[1:2], (8, 1, 1)), np.tile(TABLE[1:2], (8, 1))
  lengths = np.arange(8, dtype=np.int32) * 40
  f = jax.jit(decode_attention)
  right = f(q, pages, table, lengths)
  place = functools.partial(jax.device_put, device=NamedSharding(mesh, P("data")))
  got = f(place(q), pages, place(table), place(lengths))
  assert got.sharding.spec == P("data")
  rows = P("data")
  by_hand = jax.shard_map(
    decode_attention, mesh=mesh, in_specs=(rows, P(), rows, rows), out_specs=rows
  )
  for y in (got, jax.jit(by_hand)(q, pages, table, lengths)):
    np.testing.assert_allclose(y, right, atol=1e-6)


def test_no_rows_and_no_pages_give_nothing(query):
  pages = cache((4, 2), 16)
  assert decode_attention(query[:0], pages, TABLE[:0], LENGTHS[:0]).shape == (0, 8, D)
  np.testing.assert_array_equal(decode_attention(query, pages, TABLE[:, :0], LENGTHS), 0 * query)


def test_bad_input_is_named(query):
  pages = cache((4, 2), 16)
  k = jnp.zeros((2, 96, 2, 8))
  make = functools.partial(quantize_pages, key_group=32, value_group=8)
  for call, message in [
    (lambda: decode_attention(query[0], pages, TABLE, LENGTHS), r"queries \(8, 32\) do not fit"),
    (lambda: decode_attention(query[:, :3], pages, TABLE, LENGTHS), "do not fit pages of 2 heads"),
    (lambda: decode_attention(query, pages, TABLE[:2], LENGTHS), r"got \(2, 3\) and \(3,\)"),
    (
      lambda: decode_attention(
        query, pages._replace(k_words=pages.k_words[:, :, :15]), TABLE, LENGTHS
      ),
      "do not fit: {'k_words': \\(7, 2, 15, 32\\)",
    ),
    (lambda: decode_attention(query.astype(int), pages, TABLE, LENGTHS), "q must be of a float"),
    (lambda: decode_attention(query, pages, TABLE, LENGTHS * 1.0), "lengths must be integers"),
    (lambda: make(k, k, bits=4), "hold a multiple of 64 tokens, got 96"),
    (lambda: make(k, k[1:], bits=8), r"got \(2, 96, 2, 8\), \(1, 96, 2, 8\)"),
  ]:
    with pytest.raises(ValueError, match=message):
      call()
