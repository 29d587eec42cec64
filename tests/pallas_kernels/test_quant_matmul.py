import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from pallas_kernels import (
  additive_dequantize,
  additive_matmul,
  affine_quantize,
  affine_range,
  dequantize_words,
  fake_quant,
  pack_bits,
  quant_matmul,
  quantize_words,
  ternary_matmul,
  ternary_weights,
)
from pallas_kernels.quant_matmul import cpu, tpu


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def quantized(w, bits, block, symmetric):
  """Words, scale and offset, and the weights that they stand for."""
  scale, offset = affine_range(w, block, bits=bits, symmetric=symmetric)
  codes = affine_quantize(w, scale, offset, bits=bits)
  repeat = w.shape[0] // scale.shape[0]
  back = codes * jnp.repeat(scale, repeat, axis=0)
  back = back if offset is None else back + jnp.repeat(offset, repeat, axis=0)
  return pack_bits(codes, bits, axis=0, interleave=8), scale, offset, back


# Ragged rows and columns; features that leave a tile half full; groups within and across tiles.
CASES = {
  "int4 groups of 32": (3, 384, 200, 4, (32, 1), False, np.float32),
  "int2 groups of 64": (20, 384, 200, 2, (64, 1), False, np.float32),
  "int8 channels": (3, 350, 200, 8, (None, 1), True, np.float32),
  "int3 tensor": (3, 350, 200, 3, (None, None), True, np.float32),
  "int4 bfloat16": (3, 384, 200, 4, (128, 1), True, jnp.bfloat16),
}


@pytest.mark.parametrize("name", CASES)
def test_product_is_that_with_dequantized_weights(name, monkeypatch):
  rows, length, columns, bits, block, symmetric, dtype = CASES[name]
  monkeypatch.setattr(cpu, "WEIGHTS", 1)  # As many tiles as there can be.
  for size, value in (("ROWS", 16), ("FEATURES", 128), ("COLUMNS", 128)):
    monkeypatch.setattr(tpu, size, value)
  x, w = normal(rows, length).astype(dtype), normal(length, columns, seed=1)

  @jax.jit
  def run(x, w):
    words, scale, offset, back = quantized(w, bits, block, symmetric)
    right = x.astype(jnp.float32) @ back.astype(dtype).astype(jnp.float32)
    f = functools.partial(quant_matmul, x, words, scale, offset, bits=bits)
    return right, [f(backend=backend) for backend in ("interpret", None)]

  right, got = run(x, w)
  tolerance = (
    1e-4 if dtype == np.float32 else 0.3
  )  # Of sums near 40, of which bfloat16 keeps 8 bits.
  for y in got:
    assert y.dtype == dtype
    np.testing.assert_allclose(np.asarray(y, np.float32), right, atol=tolerance)


def test_gradients_are_those_of_the_dequantized_product():
  x, w, weights = normal(3, 128), normal(128, 16, seed=1), normal(3, 16, seed=2)

  @jax.jit
  def run(x, w):
    words, scale, offset, back = quantized(w, 4, (32, 1), False)
    codes = (back - jnp.repeat(offset, 32, axis=0)) / jnp.repeat(scale, 32, axis=0)

    def ours(x, scale, offset, backend):
      return (quant_matmul(x, words, scale, offset, bits=4, backend=backend) * weights).sum()

    def plain(x, scale, offset):
      w = jnp.repeat(scale, 32, axis=0) * codes + jnp.repeat(offset, 32, axis=0)
      return ((x @ w) * weights).sum()

    right = jax.grad(plain, (0, 1, 2))(x, scale, offset)
    got = [
      jax.grad(functools.partial(ours, backend=backend), (0, 1, 2))(x, scale, offset)
      for backend in ("interpret", None)
    ]
    step = 1e-2
    ahead, back = (ours(x + s * x, scale + s, offset - s, None) for s in (step, -step))
    slope = (right[0] * x).sum() + right[1].sum() - right[2].sum()
    return right, got, (ahead - back) / (2 * step), slope

  right, got, difference, slope = run(x, w)
  for grads in got:
    for a, b in zip(grads, right, strict=True):
      np.testing.assert_allclose(a, b, atol=2e-4)
  np.testing.assert_allclose(difference, slope, rtol=1e-3)


@pytest.mark.slow
def test_no_tile_races_another(monkeypatch, capfd):
  for size, value in (("ROWS", 16), ("FEATURES", 128), ("COLUMNS", 128)):
    monkeypatch.setattr(tpu, size, value)
  x, w = normal(3, 256), normal(256, 130, seed=1)
  words, scale, offset, back = jax.jit(lambda w: quantized(w, 4, (32, 1), False))(w)
  y = quant_matmul(x, words, scale, offset, bits=4, backend="races")
  np.testing.assert_allclose(y, x @ np.asarray(back), atol=1e-4)
  assert "RACE" not in capfd.readouterr().out


def test_ternary_sums_are_exact(monkeypatch):
  monkeypatch.setattr(cpu, "WEIGHTS", 1)
  x, w = normal(5, 350), normal(350, 40, seed=1)
  x[2] = 0
  words, scale = jax.jit(ternary_weights)(w)
  f = functools.partial(ternary_matmul, words=words, scale=scale)
  got = jax.jit(lambda x: [f(x, backend=backend) for backend in ("interpret", None)])(x)
  mean = np.abs(w).mean()
  np.testing.assert_allclose(scale, [[mean]], rtol=1e-6)
  signs = np.clip(np.round(w / np.asarray(scale)), -1, 1).astype(np.int64)
  step = np.maximum(np.abs(x).max(1, keepdims=True), np.float32(1e-5)) / np.float32(127)
  whole = np.round(x / step).astype(np.int64) @ signs
  np.testing.assert_array_equal(got[0], got[1])
  np.testing.assert_allclose(got[0], whole * step * mean, rtol=1e-5, atol=1e-6)


def test_ternary_gradient_is_as_if_nothing_had_been_rounded():
  x, w, weights = normal(5, 350), normal(350, 40, seed=1), normal(5, 40, seed=2)

  @jax.jit
  def run(x, w):
    words, scale = ternary_weights(w)
    signs = jnp.clip(jnp.round(w / scale), -1, 1)

    def loss(x, scale):
      return (ternary_matmul(x, words, scale) * weights).sum()

    return jax.grad(loss, (0, 1))(x, scale), scale, signs

  (dx, dscale), scale, signs = run(x, w)
  np.testing.assert_allclose(dx, weights @ np.asarray(signs).T * scale, atol=1e-4)
  np.testing.assert_allclose(dscale[0, 0], (x @ signs * weights).sum(), rtol=3e-2)


@pytest.mark.parametrize(
  ("rows", "number", "entries", "tile"),
  [(3, 1, 4096, (1, 8)), (1, 2, 256, (1, 8)), (2, 2, 16, (2, 4))],
)
def test_additive_weights_are_sums_of_codewords(rows, number, entries, tile):
  rng = np.random.default_rng(0)
  codes = rng.integers(0, entries, (12, 6, number))
  codebooks, scales = normal(number, entries, *tile, seed=1), normal(12, 1, seed=2)
  x = normal(rows, 6 * tile[1], seed=3)
  right = np.zeros((12, tile[0], 6, tile[1]), np.float32)
  for i in range(12):
    for j in range(6):
      right[i, :, j] = scales[i] * sum(codebooks[m, codes[i, j, m]] for m in range(number))
  right = right.reshape(12 * tile[0], 6 * tile[1])

  def loss(dense, x, codebooks, scales):
    if dense:
      y = x @ additive_dequantize(codes, codebooks, scales).T
    else:
      y = additive_matmul(x, codes, codebooks, scales)
    return (y * jnp.arange(y.size).reshape(y.shape)).sum()

  @jax.jit
  def run(*args):
    grads = [jax.grad(loss, (1, 2, 3))(dense, *args) for dense in (True, False)]
    ahead, behind = (loss(False, *((1 + step) * part for part in args)) for step in (0.01, -0.01))
    w, y = additive_dequantize(codes, *args[1:]), additive_matmul(args[0], codes, *args[1:])
    return w, y, grads, (ahead - behind) / 0.02

  w, y, (a, b), slope = run(x, codebooks, scales)
  along = sum(np.vdot(part, grad) for part, grad in zip((x, codebooks, scales), b, strict=True))
  np.testing.assert_allclose(slope, along, rtol=1e-3, atol=1e-2)
  np.testing.assert_allclose(w, right, rtol=1e-5)
  np.testing.assert_allclose(y, x @ right.T, atol=1e-4)
  for one, other in zip(a, b, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_a_code_out_of_range_reads_the_nearest_entry():
  codes = np.array([[[-7]], [[99]]])
  codebooks = np.arange(4.0, dtype=np.float32).reshape(1, 4, 1, 1)
  w = additive_dequantize(codes, codebooks, np.ones((2, 1), np.float32))
  np.testing.assert_array_equal(w, [[0], [3]])
  y = additive_matmul(np.ones((1, 1), np.float32), codes, codebooks, np.ones((2, 1), np.float32))
  np.testing.assert_array_equal(y, [[0, 3]])


def test_columns_may_lie_on_several_devices(mesh):
  x, w = normal(3, 64), normal(64, 32, seed=1)
  codes, codebooks = np.random.default_rng(2).integers(0, 16, (32, 8, 1)), normal(1, 16, 1, 8)

  @jax.jit
  def made(w):
    return *quantized(w, 4, (32, 1), False), *ternary_weights(w)

  words, scale, offset, back, signs, mean = made(w)

  @jax.jit
  def run(w, words, scale, offset, signs, codes):
    return (
      quant_matmul(x, words, scale, offset, bits=4),
      ternary_matmul(x, signs, mean),
      additive_matmul(x, codes, codebooks, jnp.ones((32, 1))),
      fake_quant(w, scale, offset, 4),
      dequantize_words(words, scale, offset, length=64, bits=4),
      quantize_words(w, scale, offset, bits=4),
    )

  columns = NamedSharding(mesh, P(None, "data"))
  given = jax.device_put((w, words, scale, offset, signs), columns)
  rows = jax.device_put(codes, NamedSharding(mesh, P("data")))
  program = run.lower(*given, rows).compile()
  assert "all-gather" not in program.as_text()
  product, ternary, additive, faked, unpacked, packed = program(*given, rows)
  assert product.sharding.spec == packed.sharding.spec == P(None, "data")
  np.testing.assert_allclose(product, x @ np.asarray(back), atol=1e-5)
  step = np.abs(x).max(1, keepdims=True) / 127
  whole = np.round(x / step) @ np.clip(np.round(w / mean), -1, 1)
  np.testing.assert_allclose(ternary, whole * step * mean, atol=1e-5)
  dense = codebooks[0, codes[..., 0], 0].reshape(32, 64)
  np.testing.assert_allclose(additive, x @ dense.T, atol=1e-5)
  for values in (faked, unpacked):
    np.testing.assert_allclose(values, back, atol=1e-6)
  np.testing.assert_array_equal(packed, words)


def test_in_shard_map_gradients_of_shared_scales_add_up(mesh, monkeypatch):
  monkeypatch.setattr(cpu, "WEIGHTS", 1)
  x, w = normal(8, 128), normal(128, 8, seed=1)
  words, scale, offset, _ = jax.jit(lambda w: quantized(w, 4, (32, 1), False))(w)

  def grads(x, words, scale, offset):
    def loss(x, scale, offset):
      return (quant_matmul(x, words, scale, offset, bits=4) ** 2).sum()

    return jax.grad(loss, (0, 1, 2))(x, scale, offset)

  rows, whole = P("data"), P()
  specs = {"in_specs": (rows, whole, whole, whole), "out_specs": (rows, whole, whole)}
  got = jax.jit(jax.shard_map(grads, mesh=mesh, **specs))(x, words, scale, offset)
  for a, b in zip(got, jax.jit(grads)(x, words, scale, offset), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)  # Sums of eight parts near 1000.


def test_no_rows_give_no_rows():
  words, one = np.zeros((8, 5), np.int32), np.ones((1, 1), np.float32)
  codes, codebooks = np.zeros((6, 8, 1), np.int32), np.zeros((1, 4, 1, 8), np.float32)

  @jax.jit
  def run(x):
    y = quant_matmul(x, words, one, bits=4), ternary_matmul(x, words, one)
    return *y, additive_matmul(x, codes, codebooks, np.ones((6, 1), np.float32))

  shapes = [y.shape for y in run(np.zeros((2, 0, 64), np.float32))]
  assert shapes == [(2, 0, 5), (2, 0, 5), (2, 0, 6)]


def test_bad_input_is_named():
  x, words, one = jnp.zeros((2, 64)), jnp.zeros((8, 5), jnp.int32), jnp.ones((1, 1))
  codes, codebooks, scales = jnp.zeros((6, 8, 1), int), jnp.zeros((1, 4, 1, 8)), jnp.ones((6, 1))
  for call, message in [
    (lambda: quant_matmul(x, words[:7], one, bits=4), r"fill 8 words, got \(7, 5\)"),
    (lambda: quant_matmul(x, words, jnp.ones((3, 5)), bits=4), r"\(3, 5\) do not fit weights \(64"),
    (lambda: quant_matmul(x, words, one, jnp.ones((1, 5)), bits=4), "not the shape"),
    (lambda: quant_matmul(x, words.astype(float), one, bits=4), "int32"),
    (lambda: quant_matmul(x.astype(int), words, one, bits=4), r"float type, got int32 \(2, 64\)"),
    (lambda: ternary_matmul(x.astype(int), words[:4], one), "float type"),
    (lambda: ternary_matmul(x, words, jnp.ones((2, 5))), "one scale a column"),
    (lambda: additive_matmul(x.astype(int), codes, codebooks, scales), "float type"),
    (lambda: additive_matmul(x[:, :9], codes, codebooks, scales), r"x \(2, 9\) does not fit"),
    (lambda: additive_dequantize(codes[..., 0], codebooks, scales), "do not fit codebooks"),
    (lambda: additive_dequantize(codes, codebooks, scales[:5]), r"scales \(5, 1\) do not fit"),
  ]:
    with pytest.raises(ValueError, match=message):
      call()
