import jax
import numpy as np
import pytest

from jaxcodec import functional as F


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make_books(q, k, wide, narrow):
  return F.FactorizedCodebooks(
    normal(q, wide, narrow, seed=1) / wide**0.5,
    0.1 * normal(q, narrow, seed=2),
    normal(q, k, narrow, seed=3),
    normal(q, narrow, wide, seed=4) / narrow**0.5,
    0.1 * normal(q, wide, seed=5),
  )


encode, decode = jax.jit(F.factorized_encode), jax.jit(F.factorized_decode)


def test_the_nearest_direction_is_the_nearest_of_unit_vectors():
  z, entries = normal(300, 4), normal(32, 4, seed=1) * np.exp(normal(32, 1, seed=2))
  unit_z, unit_entries = (
    x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, entries)
  )
  want = np.argmax(unit_z @ unit_entries.T, axis=1)
  np.testing.assert_array_equal(F.nearest_direction(z, entries), want)
  # By distance alone another entry would often win.
  nearest = np.argmin(np.sum((z[:, None] - entries) ** 2, axis=-1), axis=1)
  assert np.mean(nearest != want) > 0.2
  np.testing.assert_array_equal(F.nearest_direction(8 * z, entries), want)


def test_ties_go_to_the_lowest_index():
  entries = np.float32([[0, 1], [2, 0], [1, 0], [2, 0]])
  np.testing.assert_array_equal(
    F.nearest_direction(np.float32([[3, 0.1], [0, 5]]), entries), [1, 0]
  )


def test_a_vector_of_zeros_has_a_code():
  codes = F.nearest_direction(np.zeros((3, 4), np.float32), normal(8, 4))
  assert len(np.unique(codes)) == 1
  assert 0 <= codes[0] < 8
  assert F.nearest_direction(normal(1, 4), np.zeros((8, 4), np.float32)) == 0


def test_each_stage_codes_what_is_left_and_adds_its_entry_as_it_is():
  books = make_books(3, 16, 6, 4)
  z = normal(2, 5, 6)
  codes = np.asarray(encode(z, books))
  assert codes.dtype == np.int32
  residual, total = z.astype(np.float64), np.zeros((2, 5, 6))
  for q in range(3):
    kernel, bias, entries, out_kernel, out_bias = (leaf[q].astype(np.float64) for leaf in books)
    low = residual @ kernel + bias
    low /= np.linalg.norm(low, axis=-1, keepdims=True)
    unit = entries / np.linalg.norm(entries, axis=-1, keepdims=True)
    np.testing.assert_array_equal(codes[..., q], np.argmax(low @ unit.T, axis=-1))
    value = entries[codes[..., q]] @ out_kernel + out_bias
    residual, total = residual - value, total + value
  np.testing.assert_allclose(decode(codes, books), total, atol=1e-5)


def test_a_stage_that_is_not_there_adds_no_bias():
  books = make_books(3, 16, 6, 4)
  codes = np.asarray(encode(normal(2, 5, 6), books))
  few = decode(codes[..., :1], books)
  for outside in (-1, 16, 2**31 - 1, -(2**31)):
    rest = np.full_like(codes[..., 1:], outside)
    np.testing.assert_array_equal(decode(np.concatenate([codes[..., :1], rest], -1), books), few)
  value = books.entries[0][codes[..., 0]] @ books.out_kernel[0] + books.out_bias[0]
  np.testing.assert_allclose(few, value, atol=1e-6)
  np.testing.assert_array_equal(decode(np.full((1, 2, 3), -1), books), np.zeros((1, 2, 6)))


def test_what_does_not_fit_is_named():
  books = make_books(2, 4, 6, 4)
  with pytest.raises(ValueError, match="z has 5 features, codebooks have 6"):
    F.factorized_encode(normal(2, 5), books)
  with pytest.raises(ValueError, match="3 codes for 2 codebooks"):
    F.factorized_decode(np.zeros((1, 3), np.int32), books)
