"""Search for the nearest entry: every form against NumPy, the kernel compiled for TPUs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tpu_topologies as topologies
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding, PartitionSpec as P

from pallas_kernels import nearest_code, sharded_nearest_code
from pallas_kernels.nearest_code import op, ranked, tpu

BACKENDS = ("reference", "tiled", "interpret", None)
# One block and less than a register's lanes; several blocks of rows and entries, the last ragged.
SMALL, RAGGED = (5, 3, 7), (1030, 1100, 8)


def grid(*shape, seed=0, dtype=np.float32):
  """Small whole numbers: sums and products are exact in any order and type, and ties abound."""
  return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


def nearest_by_definition(z, codebook):
  z, codebook = z.astype(np.float64), codebook.astype(np.float64)
  return np.argmin((codebook**2).sum(axis=-1) - 2 * z @ codebook.T, axis=-1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("shape", "dtype"), [(SMALL, np.float32), (RAGGED, jnp.bfloat16)])
def test_every_form_finds_the_nearest_and_the_first_of_equals(shape, dtype, backend):
  n, k, d = shape
  z, codebook = grid(n, d, dtype=dtype), grid(k, d, seed=1, dtype=dtype)
  codes = nearest_code(z, codebook, backend=backend)
  assert codes.dtype == jnp.int32
  np.testing.assert_array_equal(codes, nearest_by_definition(z, codebook))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_smallest_angle_does_not_depend_on_lengths(backend):
  rng = np.random.default_rng(0)
  z, codebook = rng.normal(size=(2, 20, 6)).astype(np.float32)
  codebook[3] = 0
  want = np.argmax(
    z @ (codebook / np.maximum(np.linalg.norm(codebook, axis=1), 1e-12)[:, None]).T, 1
  )
  lengths = 2.0 ** np.arange(20, dtype=np.float32)[:, None]
  got = nearest_code(z * lengths, codebook * lengths[::-1], metric="cosine", backend=backend)
  np.testing.assert_array_equal(got, want)
  assert nearest_code(np.zeros_like(z), codebook, metric="cosine", backend=backend).max() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_gives_code_0_in_its_row_and_in_the_codebook_in_all(backend):
  z, codebook = grid(20, 6), grid(20, 6, seed=1)
  want = nearest_by_definition(z, codebook)
  z[3, 2], want[3] = np.nan, 0
  np.testing.assert_array_equal(nearest_code(z, codebook, backend=backend), want)
  codebook[7, 1] = np.nan
  np.testing.assert_array_equal(nearest_code(z, codebook, backend=backend), 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8])
def test_the_shortlist_is_the_best_of_the_classes(dtype):
  z, codebook = grid(130, 8), grid(700, 8, seed=1)
  scaled = dtype == jnp.int8
  bias = np.random.default_rng(2).integers(0, 50, 700).astype(np.float32)
  factor = np.full(130, -2.0, np.float32) if scaled else None
  got = tpu.search(
    jnp.asarray(z * (1 if scaled else -2), dtype),
    jnp.asarray(codebook, dtype),
    jnp.asarray(bias),
    factor if factor is None else jnp.asarray(factor),
    5,
    interpret=True,
  )
  scores = np.full((130, 6 * 128), np.inf)
  scores[:, :700] = bias - 2 * z @ codebook.T
  of_class = scores.reshape(130, 6, 128)
  best, entry = of_class.min(axis=1), of_class.argmin(axis=1) * 128 + np.arange(128)
  order = np.lexsort((entry, best), axis=-1)[:, :5]
  np.testing.assert_array_equal(got, np.take_along_axis(entry, order, axis=1).T)


@pytest.mark.parametrize("scoring", ["bfloat16", "int8"])
def test_rough_scores_miss_the_nearest_seldom_and_by_little(scoring):
  rng = np.random.default_rng(0)
  z = rng.normal(size=(256, 16)).astype(np.float32)
  codebook = rng.normal(size=(600, 16)).astype(np.float32)
  distance = ((z[:, None] - codebook) ** 2).sum(axis=-1)
  codes = nearest_code(z, codebook, scoring=scoring, backend="interpret")
  got = distance[np.arange(256), codes]
  # Two near entries share one of 128 classes in about one row of a hundred.
  assert (got == distance.min(axis=-1)).mean() > 0.97
  assert (got <= 1.1 * distance.min(axis=-1)).all()
  everywhere = nearest_code(z, codebook, scoring=scoring)
  np.testing.assert_array_equal(everywhere, nearest_by_definition(z, codebook))


@pytest.mark.slow
def test_blocks_do_not_race(capfd):
  z, codebook = grid(1030, 8), grid(600, 8, seed=1)
  z[:, 0] = codebook[:, 0] = 127  # So that the scales of int8 are 1, and its scores exact.
  search = functools.partial(tpu.search, interpret=pltpu.InterpretParams(detect_races=True))

  @jax.jit
  def both(z, codebook):
    given = z, codebook, "l2"
    exact = ranked.nearest_code(*given, "float32", 1, search)
    return exact, ranked.nearest_code(*given, "int8", 2, search)

  want = nearest_by_definition(z, codebook)
  for codes in both(z, codebook):
    np.testing.assert_array_equal(codes, want)
  assert "RACE" not in capfd.readouterr().out


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows_have_no_codes(backend):
  assert nearest_code(grid(2, 0, 6), grid(20, 6), backend=backend).shape == (2, 0)


def test_each_codebook_of_a_batch_is_searched_for_its_own_rows():
  z, codebooks = grid(3, 20, 6), grid(3, 20, 6, seed=1)
  want = [nearest_by_definition(*pair) for pair in zip(z, codebooks, strict=True)]
  np.testing.assert_array_equal(jax.vmap(nearest_code)(z, codebooks), want)
  kernel = functools.partial(nearest_code, backend="interpret")
  np.testing.assert_array_equal(jax.vmap(kernel)(z, codebooks), want)


def test_codes_carry_no_gradient():
  codebook = grid(20, 6, seed=1)

  def loss(z):
    return jnp.sum((z - jnp.asarray(codebook)[nearest_code(z, codebook)]) ** 2)

  z = grid(20, 6)
  want = 2 * (z - codebook[nearest_by_definition(z, codebook)])
  np.testing.assert_array_equal(jax.jit(jax.grad(loss))(z), want)


def test_wrong_calls_are_refused():
  with pytest.raises(
    ValueError, match=r"z must be \[\*N, D\], got shape \(\) for codebook \(2, 6\)"
  ):
    nearest_code(np.float32(1), grid(2, 6))
  with pytest.raises(ValueError, match="z has 5 features, codebook has 6"):
    nearest_code(grid(2, 5), grid(2, 6))
  for shape in ((0, 6), (2, 0)):
    with pytest.raises(ValueError, match="K and D >= 1, got shape"):
      nearest_code(grid(2, shape[1]), grid(*shape))
  with pytest.raises(ValueError, match="metric must be one of"):
    nearest_code(grid(2, 6), grid(2, 6), metric="l1")
  with pytest.raises(ValueError, match=r"codebook \(2, 4096\) is none that the kernel takes"):
    nearest_code(grid(2, 4096), grid(2, 4096), backend="interpret")
  with pytest.raises(ValueError, match="candidates must be 1 to 128, got 0"):
    nearest_code(grid(2, 6), grid(2, 6), candidates=0)


def test_sixteen_thousand_entries_are_searched_in_a_hundred_megabytes():
  z = jax.ShapeDtypeStruct((65_536, 64), jnp.float32)
  compiled = jax.jit(nearest_code).lower(z, z.update(shape=(16_384, 64))).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 100e6


def test_rows_over_eight_devices_stay_there(mesh):
  rows = NamedSharding(mesh, P("data"))
  # So many scores that one device would take them in turns.
  z, codebook = grid(4096, 4), grid(17_000, 4, seed=1)
  search = jax.jit(nearest_code).lower(jax.device_put(z, rows), codebook).compile()
  assert "all-gather" not in search.as_text()
  codes = search(jax.device_put(z, rows), jax.device_put(codebook, NamedSharding(mesh, P())))
  assert codes.sharding.is_equivalent_to(rows, 1)
  np.testing.assert_array_equal(codes, nearest_by_definition(z, codebook))
  by_hand = jax.shard_map(nearest_code, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
  np.testing.assert_array_equal(jax.jit(by_hand)(z, codebook), codes)


@pytest.fixture(scope="module")
def square():
  if jax.device_count() < 8:
    pytest.skip(f"needs 8 devices, there are {jax.device_count()}")
  types = (jax.sharding.AxisType.Auto,) * 2
  return jax.make_mesh((2, 4), ("rows", "entries"), axis_types=types, devices=jax.devices()[:8])


@pytest.mark.parametrize(("metric", "axis"), [("l2", "rows"), ("l2", None), ("cosine", None)])
def test_a_codebook_over_devices_gives_the_codes_of_the_whole(square, metric, axis):
  z, codebook = grid(32, 6), grid(40, 6, seed=1)
  z[3, 2] = np.nan
  search = jax.jit(
    functools.partial(
      sharded_nearest_code, mesh=square, entries_axis="entries", rows_axis=axis, metric=metric
    )
  )
  want = nearest_code(z, codebook, metric=metric)
  np.testing.assert_array_equal(search(z, codebook), want)


def test_entries_and_rows_that_the_compiler_splits_stay_where_they_are(square, monkeypatch):
  # Tiles of 128 entries, 64 on a device; whole numbers, so that ties abound.
  monkeypatch.setattr(op, "_SCORES", 1 << 13)
  z, codebook = grid(64, 6), grid(4096, 6, seed=1)
  z[3, 2] = np.nan
  rows, entries = (NamedSharding(square, P(axis)) for axis in ("rows", "entries"))
  search = jax.jit(nearest_code, in_shardings=(rows, entries), out_shardings=rows)
  program = search.lower(z, codebook).compile()
  assert "all-gather" not in program.as_text()
  # A device's scores of a tile, and copies of its entries; the whole matrix takes 1 MB.
  assert program.memory_analysis().temp_size_in_bytes < 150_000
  want = nearest_by_definition(np.nan_to_num(z), codebook)
  want[3] = 0
  np.testing.assert_array_equal(search(z, codebook), want)


def test_parts_must_divide(square):
  search = functools.partial(sharded_nearest_code, mesh=square, entries_axis="entries")
  with pytest.raises(ValueError, match="41 entries do not fall on 4 devices"):
    search(grid(4, 6), grid(41, 6))
  with pytest.raises(ValueError, match=r"z \(5, 6\) does not fall on 2 devices"):
    search(grid(5, 6), grid(40, 6), rows_axis="rows")


REST = [(g, dtype) for g in topologies.GENERATIONS for dtype in (jnp.float32, jnp.int8)]


@pytest.mark.parametrize(
  ("generation", "dtype"),
  [(g, jnp.bfloat16) for g in topologies.GENERATIONS]
  + [pytest.param(*case, marks=pytest.mark.slow) for case in REST],
)
def test_the_search_compiles_for_tpus_at_real_sizes(generation, dtype):
  z = jax.ShapeDtypeStruct((1 << 20, 256), dtype)
  numbers = jax.ShapeDtypeStruct((1 << 20,), jnp.float32)
  factor = numbers if dtype == jnp.int8 else None
  search = functools.partial(tpu.search, candidates=4)
  entries = z.update(shape=(16_384, 256)), numbers.update(shape=(16_384,))
  compiled = topologies.compile_for(generation, search, z, *entries, factor)
  assert len(topologies.kernels(compiled)) == 1
  # Far from the 16 MB at which the compiler would refuse it on the smallest.
  assert topologies.vmem_bytes(compiled) < 12 << 20
  assert compiled.cost_analysis()["flops"] >= 2 * (1 << 20) * 16_384 * 256


@pytest.mark.parametrize(
  ("k", "scoring"),
  [(1, "float32"), pytest.param(1 << 20, "int8", marks=pytest.mark.slow)],
)
def test_one_entry_and_a_million_of_512_features_compile_whole(k, scoring):
  z, codebook = (jax.ShapeDtypeStruct((n, 512), jnp.float32) for n in (1000, k))
  search = functools.partial(nearest_code, scoring=scoring)
  compiled = topologies.compile_for("v5e", search, z, codebook)
  assert len(topologies.kernels(compiled)) == 1


def test_a_codebook_over_tpus_is_searched_by_the_kernel():
  devices = topologies.devices("v5e")
  mesh = jax.sharding.Mesh(devices, ("k",), axis_types=(jax.sharding.AxisType.Auto,))
  z = jax.ShapeDtypeStruct((64, 8), jnp.float32, sharding=NamedSharding(mesh, P()))
  codebook = jax.ShapeDtypeStruct((512, 8), jnp.float32, sharding=NamedSharding(mesh, P("k")))
  search = functools.partial(sharded_nearest_code, mesh=mesh, entries_axis="k")
  compiled = topologies.compiled(jax.jit(search).lower(z, codebook))
  assert len(topologies.kernels(compiled)) == 1
