"""All stages at once and the way back: every form against NumPy, the kernels compiled for TPUs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tpu_topologies as topologies
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding, PartitionSpec as P

from pallas_kernels import dequantize, residual_quantize
from pallas_kernels.dequantize import tpu as dequantize_tpu
from pallas_kernels.residual_quantize import tpu as quantize_tpu

BACKENDS = ("reference", "interpret", None)
# N, Q, K, D: less than a register's lanes; two blocks of rows, the last ragged, two groups of
# entries.
SMALL, RAGGED = (3, 2, 5, 7), (650, 3, 150, 8)


def grid(*shape, seed=0, span=3):
  """Whole numbers: sums and products are exact in any order, and ties abound."""
  return np.random.default_rng(seed).integers(-span, span + 1, shape).astype(np.float32)


def quantize_by_definition(z, codebooks):
  rest, codes = z.astype(np.float64), []
  for codebook in codebooks.astype(np.float64):
    codes.append(np.argmin((codebook**2).sum(axis=-1) - 2 * rest @ codebook.T, axis=-1))
    rest = rest - codebook[codes[-1]]
  return np.stack(codes, axis=-1), z - rest


def codes_with_strangers(n, q, k):
  codes = np.random.default_rng(2).integers(0, k, (n, q)).astype(np.int32)
  codes[0], codes[1, 0], codes[2, -1] = -1, k, -k
  return codes


def dequantize_by_definition(codes, codebooks):
  total = np.zeros((len(codes), codebooks.shape[-1]), np.float32)
  for stage, codebook in enumerate(codebooks):
    known = (codes[:, stage] >= 0) & (codes[:, stage] < len(codebook))
    total[known] += codebook[codes[known, stage]]
  return total


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [SMALL, RAGGED])
def test_every_form_codes_what_is_left_over(shape, backend):
  n, q, k, d = shape
  z, codebooks = grid(n, d, span=9), grid(q, k, d, seed=1)
  codes, total = residual_quantize(z, codebooks, backend=backend)
  want_codes, want_total = quantize_by_definition(z, codebooks)
  assert codes.dtype == jnp.int32
  np.testing.assert_array_equal(codes, want_codes)
  np.testing.assert_array_equal(total, want_total)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [SMALL, RAGGED])
def test_every_form_adds_entries_to_the_bit_and_zeros_for_codes_that_are_none(shape, backend):
  n, q, k, d = shape
  codes = codes_with_strangers(n, q, k)
  # Of all sizes: a sum in another order, or of rounded entries, would have other bits.
  rng = np.random.default_rng(3)
  codebooks = (rng.normal(size=(q, k, d)) * 10.0 ** rng.integers(-6, 6, (q, k, d))).astype(
    np.float32
  )
  got = dequantize(codes, codebooks, backend=backend)
  np.testing.assert_array_equal(got, dequantize_by_definition(codes, codebooks))


@pytest.mark.parametrize("backend", BACKENDS)
def test_entries_of_bfloat16_are_summed_in_float32(backend):
  codes = np.zeros((1, 3), np.int32)
  codebooks = jnp.asarray([[[256.0]], [[1.0]], [[1.0]]], jnp.bfloat16)  # 256 + 1 is no bfloat16.
  got = dequantize(codes, codebooks, backend=backend)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got.astype(np.float32), [[258]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_with_nan_gets_code_0_and_leaves_the_others_alone(backend):
  z, codebooks = grid(3, 7), grid(2, 5, 7, seed=1)
  want, _ = quantize_by_definition(z, codebooks)
  z[1, 2], want[1] = np.nan, 0
  codes, total = residual_quantize(z, codebooks, backend=backend)
  np.testing.assert_array_equal(codes, want)
  np.testing.assert_array_equal(total, dequantize_by_definition(want, codebooks))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_of_the_sum_goes_to_the_entries_used(backend):
  codes, codebooks = codes_with_strangers(12, 2, 5), grid(2, 5, 7, seed=1)
  weight, step = grid(12, 7, seed=4), grid(2, 5, 7, seed=5)
  f = functools.partial(dequantize, codes, backend=backend)

  @jax.jit
  def both_ways(books):
    to_books = jax.grad(lambda books: jnp.vdot(weight, f(books)))(books)
    return to_books, jax.jvp(f, (books,), (step,))[1]

  got, slope = both_ways(codebooks)
  want = np.zeros_like(codebooks)
  for row, row_codes in enumerate(codes):
    for stage, code in enumerate(row_codes):
      if 0 <= code < 5:
        want[stage, code] += weight[row]
  np.testing.assert_array_equal(got, want)
  # By finite differences, exact as the sum is linear in the entries.
  change = dequantize_by_definition(codes, codebooks + step) - dequantize_by_definition(
    codes, codebooks
  )
  np.testing.assert_array_equal(slope, change)
  np.testing.assert_array_equal(np.vdot(got, step), np.vdot(weight, change))


def test_a_cotangent_that_is_no_number_stays_with_the_entries_of_its_row():
  codes, codebooks = np.int32([[1], [2], [-1]]), grid(1, 5, 7)
  weight = np.ones((3, 7), np.float32)
  weight[1:] = np.nan
  got = jax.jit(jax.grad(lambda books: jnp.vdot(weight, dequantize(codes, books))))(codebooks)
  np.testing.assert_array_equal(np.isnan(got).any(axis=-1), [[False, False, True, False, False]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_of_quantization_passes_straight_through_and_to_the_entries(backend):
  z, codebooks, weight = grid(12, 7, span=9), grid(2, 5, 7, seed=1), grid(12, 7, seed=4)

  f = functools.partial(residual_quantize, backend=backend)
  step = grid(12, 7, seed=5), grid(2, 5, 7, seed=6)

  @jax.jit
  def both_ways(*given):
    def loss(z, books):
      return jnp.vdot(weight, f(z, books)[1])

    change = jax.jvp(lambda *given: f(*given)[1], given, step)[1]
    return *jax.grad(loss, argnums=(0, 1))(*given), change

  to_z, to_books, change = both_ways(z, codebooks)
  np.testing.assert_array_equal(to_z, weight)
  codes, _ = quantize_by_definition(z, codebooks)
  want = np.zeros_like(codebooks)
  for stage in range(2):
    np.add.at(want[stage], codes[:, stage], weight)
  np.testing.assert_array_equal(to_books, want)
  np.testing.assert_array_equal(change, step[0] + dequantize_by_definition(codes, step[1]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows_have_no_codes_and_no_sum(backend):
  codes, total = residual_quantize(grid(0, 4, 7), grid(2, 5, 7), backend=backend)
  assert codes.shape == (0, 4, 2)
  assert total.shape == (0, 4, 7)
  assert dequantize(codes, grid(2, 5, 7), backend=backend).shape == (0, 4, 7)


@pytest.mark.slow
def test_blocks_do_not_race(capfd):
  n, q, k, d = RAGGED
  params = pltpu.InterpretParams(detect_races=True)

  @jax.jit
  def there_and_back(z, codebooks):
    codes, total = quantize_tpu.residual_quantize(z, codebooks, interpret=params)
    return total, dequantize_tpu.dequantize(codes, codebooks, interpret=params)

  total, again = there_and_back(grid(n, d, span=9), grid(q, k, d, seed=1))
  np.testing.assert_array_equal(total, again)
  assert "RACE" not in capfd.readouterr().out


def test_each_of_a_batch_of_codebooks_codes_its_own_rows():
  z, codebooks = grid(2, 12, 7, span=9), grid(2, 2, 5, 7, seed=1)
  want = [quantize_by_definition(*pair) for pair in zip(z, codebooks, strict=True)]
  for backend in ("interpret", None):
    quantize = functools.partial(residual_quantize, backend=backend)
    codes, total = jax.vmap(quantize)(z, codebooks)
    np.testing.assert_array_equal(codes, np.stack([pair[0] for pair in want]))
    np.testing.assert_array_equal(total, np.stack([pair[1] for pair in want]))


def test_wrong_calls_are_refused():
  with pytest.raises(ValueError, match=r"got shape \(\) for codebooks \(1, 5, 7\)"):
    residual_quantize(np.float32(1), grid(1, 5, 7))
  with pytest.raises(ValueError, match="z has 6 features, codebooks have 7"):
    residual_quantize(grid(2, 6), grid(1, 5, 7))
  for shape in ((1, 0, 7), (0, 5, 7)):
    with pytest.raises(ValueError, match="none of them 0, got shape"):
      residual_quantize(grid(2, 7), grid(*shape))
    with pytest.raises(ValueError, match="none of them 0, got shape"):
      dequantize(np.zeros((2, shape[0]), np.int32), grid(*shape))
  with pytest.raises(ValueError, match=r"codes \(2, 3\) for 1 codebooks \(1, 5, 7\)"):
    dequantize(np.zeros((2, 3), np.int32), grid(1, 5, 7))
  with pytest.raises(ValueError, match=r"codes must be integers, got float32 \(2, 1\)"):
    dequantize(grid(2, 1), grid(1, 5, 7))
  large = np.broadcast_to(np.float32(0), (1, 8192, 256))
  with pytest.raises(
    ValueError, match=r"codebooks \(1, 8192, 256\) are none that the kernel takes"
  ):
    residual_quantize(grid(2, 256), large, backend="interpret")
  with pytest.raises(
    ValueError, match=r"codebooks \(1, 8192, 256\) are none that the kernel takes"
  ):
    dequantize(np.zeros((2, 1), np.int32), large, backend="tpu")
  with pytest.raises(ValueError, match="backend must be None or one of"):
    dequantize(np.zeros((2, 1), np.int32), grid(1, 5, 7), backend="cuda")


def test_rows_over_eight_devices_stay_there(mesh):
  rows = NamedSharding(mesh, P("data"))
  z, codebooks = grid(16, 7, span=9), grid(2, 5, 7, seed=1)

  @jax.jit
  def there_and_back(z, codebooks):
    codes, total = residual_quantize(z, codebooks)
    return codes, total, dequantize(codes, codebooks)

  given = jax.device_put(z, rows), jax.device_put(codebooks, NamedSharding(mesh, P()))
  compiled = there_and_back.lower(*given).compile()
  assert "all-gather" not in compiled.as_text()
  codes, total, again = compiled(*given)
  want_codes, want_total = quantize_by_definition(z, codebooks)
  np.testing.assert_array_equal(codes, want_codes)
  np.testing.assert_array_equal(total, want_total)
  np.testing.assert_array_equal(again, want_total)
  by_hand = jax.shard_map(there_and_back, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
  np.testing.assert_array_equal(by_hand(z, codebooks)[2], want_total)


# EnCodec's stages for a million frames, and the largest that the chip takes.
SIZES = [
  (1 << 20, 8, 1024, 128),
  pytest.param((1 << 16, 12, 2048, 512), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("generation", topologies.GENERATIONS)
@pytest.mark.parametrize("size", SIZES)
def test_both_kernels_compile_for_tpus_at_real_sizes(generation, size):
  n, q, k, d = size
  z = jax.ShapeDtypeStruct((n, d), jnp.float32)
  codebooks, codes = z.update(shape=(q, k, d)), jax.ShapeDtypeStruct((n, q), jnp.int32)
  quantize = topologies.compile_for(generation, residual_quantize, z, codebooks)
  back = topologies.compile_for(generation, dequantize, codes, codebooks)
  for compiled in (quantize, back):
    assert len(topologies.kernels(compiled)) == 1
    assert topologies.vmem_bytes(compiled) < 14 << 20


def test_a_stage_too_large_for_the_chip_goes_by_the_kernel_of_the_search():
  z = jax.ShapeDtypeStruct((1000, 256), jnp.float32)
  compiled = topologies.compile_for("v5e", residual_quantize, z, z.update(shape=(2, 8192, 256)))
  assert len(topologies.kernels(compiled)) == 1
  assert "nearest_code" in topologies.kernels(compiled)[0]
