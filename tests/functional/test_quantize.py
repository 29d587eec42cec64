import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.sharding import NamedSharding, PartitionSpec as P

from jaxcodec import functional as F


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def residual_encode_by_definition(z, codebooks):
  residual, codes = z.astype(np.float64), []
  for codebook in codebooks:
    distance = np.sum((residual[..., None, :] - codebook) ** 2, axis=-1)
    codes.append(np.argmin(distance, axis=-1))
    residual = residual - codebook[codes[-1]]
  return np.stack(codes, axis=-1)


# 16 doubled steps of a float32: z + (z_q - z) would round differently in most of them.
@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_straight_through_has_the_bits_of_the_quantized(seed):
  z, z_q = normal(64, seed=seed) * 1e3, normal(64, seed=seed + 1)
  np.testing.assert_array_equal(F.straight_through(z, z_q), z_q)


def test_straight_through_passes_the_gradient_to_z_alone():
  weight = normal(5, seed=2)

  def loss(z, z_q):
    return jnp.vdot(weight, F.straight_through(z, z_q))

  to_z, to_z_q = jax.grad(loss, argnums=(0, 1))(normal(5), normal(5, seed=1))
  np.testing.assert_array_equal(to_z, weight)
  np.testing.assert_array_equal(to_z_q, np.zeros(5))


@pytest.mark.parametrize(("q", "k", "d"), [(1, 2, 4), (3, 17, 5), (2, 1, 3), (4, 8, 1)])
def test_residual_encode_is_its_definition(q, k, d):
  z, codebooks = normal(2, 7, d), normal(q, k, d, seed=1)
  got = F.residual_encode(z, codebooks)
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, residual_encode_by_definition(z, codebooks))


def test_ties_go_to_the_lowest_index():
  codebooks = np.array([[[1.0], [-1.0], [1.0]], [[3.0], [3.0], [3.0]]], np.float32)
  np.testing.assert_array_equal(F.residual_encode(np.float32([[0.0], [2.0]]), codebooks), 0)


def test_a_row_with_nan_is_coded_as_zeros_and_leaves_its_neighbours_alone():
  z, codebooks = normal(3, 4), normal(2, 8, 4, seed=1)
  want = np.array(F.residual_encode(z, codebooks))
  want[1] = 0
  z[1, 2] = np.nan
  np.testing.assert_array_equal(F.residual_encode(z, codebooks), want)


def test_an_empty_batch_gives_empty_codes():
  codebooks = normal(2, 8, 4)
  assert F.residual_encode(normal(0, 5, 4), codebooks).shape == (0, 5, 2)
  assert F.residual_decode(np.zeros((3, 0, 2), np.int32), codebooks).shape == (3, 0, 4)


def test_feature_sizes_must_agree():
  with pytest.raises(ValueError, match="3 features, codebooks have 4"):
    F.residual_encode(normal(2, 3), normal(1, 8, 4))
  with pytest.raises(ValueError, match="3 codes for 2 codebooks"):
    F.residual_decode(np.zeros((1, 3), np.int32), normal(2, 8, 4))


def test_residual_decode_sums_the_entries_of_the_first_stages():
  codebooks, codes = normal(3, 8, 4), np.array([[1, 7], [0, 3]], np.int32)
  want = [codebooks[0, a] + codebooks[1, b] for a, b in codes]
  np.testing.assert_array_equal(F.residual_decode(codes, codebooks), want)


@pytest.mark.parametrize("outside", [-1, -8, 8, 2**31 - 1])
def test_a_code_outside_the_codebook_adds_nothing(outside):
  codebooks = normal(2, 8, 4)
  got = F.residual_decode(np.array([[3, outside], [outside, outside]], np.int32), codebooks)
  np.testing.assert_array_equal(got, [codebooks[0, 3], np.zeros(4)])


def statistics_by_definition(z, codes, codebooks):
  counts, sums = np.zeros(codebooks.shape[:2]), np.zeros(codebooks.shape)
  for row, row_codes in zip(z.astype(np.float64), codes, strict=True):
    residual = row
    for q, code in enumerate(row_codes):
      if code >= 0:
        counts[q, code] += 1
        sums[q, code] += residual
        residual = residual - codebooks[q, code]
  return counts, sums


def test_statistics_count_and_sum_what_each_stage_was_given():
  z, codebooks = normal(40, 4), normal(3, 8, 4, seed=1)
  codes = np.array(F.residual_encode(z, codebooks))
  codes[::3, 2:] = -1
  codes[5] = -1
  got = F.residual_statistics(z, codes, codebooks)
  counts, sums = statistics_by_definition(z, codes, codebooks)
  np.testing.assert_array_equal(got.counts, counts)
  np.testing.assert_allclose(got.sums, sums, atol=1e-5)


def test_dropped_rows_leave_the_statistics_as_if_they_were_not_there():
  z, codebooks = normal(16, 4), normal(2, 8, 4, seed=1)
  codes = np.array(F.residual_encode(z, codebooks))
  want = F.residual_statistics(z[:10], codes[:10], codebooks)
  codes[10:] = -1
  got = F.residual_statistics(z, codes, codebooks)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_statistics_of_a_sharded_batch_are_those_of_the_whole(mesh):
  z, codebooks = normal(64, 4), normal(2, 8, 4, seed=1)
  codes = np.array(F.residual_encode(z, codebooks))
  codes[::5, 1] = -1
  want = F.residual_statistics(z, codes, codebooks)
  rows = NamedSharding(mesh, P("data"))
  sharded = jax.jit(F.residual_statistics)(
    jax.device_put(z, rows), jax.device_put(codes, rows), codebooks
  )
  np.testing.assert_array_equal(sharded.counts, want.counts)
  np.testing.assert_allclose(sharded.sums, want.sums, atol=1e-5)  # Summed in another order.


def test_ema_update_worked_by_hand():
  """Decay 0.8, counts of one: entries 1 and 2 get (.9, .1), (1.1, .2) and (.1, .8)."""
  codebooks = np.float32([[[0, 0], [1, 0], [0, 1], [1, 1]]])
  z = np.float32([[0.9, 0.1], [1.1, 0.2], [0.1, 0.8]])
  codes = F.residual_encode(z, codebooks)
  np.testing.assert_array_equal(codes[:, 0], [1, 1, 2])
  statistics = F.residual_statistics(z, codes, codebooks)
  ema = F.EmaState(np.ones((1, 4), np.float32), codebooks)
  moved, ema = F.ema_update(ema, statistics, decay=0.8)
  np.testing.assert_allclose(ema.counts[0], [0.8, 1.2, 1.0, 0.8], rtol=1e-6)
  # The smoothing moves an entry by no more than a part in 1e5.
  want = [[0, 0], [1, 0.05], [0.02, 0.96], [1, 1]]
  np.testing.assert_allclose(moved[0], want, atol=2e-5)


def test_restarted_entries_are_vectors_of_the_batch_and_survive_the_next_update():
  codebooks, residuals = normal(2, 4, 3), normal(2, 50, 3, seed=1)
  counts = np.float32([[5, 0.5, 3, 0], [2, 2, 1.9, 9]])
  ema = F.EmaState(counts, codebooks * counts[..., None])
  fresh, restarted = F.restart_dead_codes(jax.random.key(0), codebooks, ema, residuals, 2.0)
  dead = counts < 2
  np.testing.assert_array_equal(fresh[~dead], codebooks[~dead])
  for q, k in np.argwhere(dead):
    assert (residuals[q] == np.asarray(fresh[q, k])).all(axis=-1).any()
  np.testing.assert_array_equal(restarted.counts, np.where(dead, 2, counts))
  # A batch that uses none of them: only the running sums say where the entries are.
  nothing = F.CodeStatistics(jnp.zeros((2, 4)), jnp.zeros((2, 4, 3)))
  moved, _ = F.ema_update(restarted, nothing, decay=0.99)
  np.testing.assert_allclose(moved, fresh, rtol=1e-4)
