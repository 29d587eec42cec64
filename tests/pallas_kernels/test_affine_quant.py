import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import (
  affine_dequantize,
  affine_quantize,
  affine_range,
  dequantize_words,
  fake_quant,
  lsq,
  lsq_scale,
  pack_bits,
  quantize_words,
  unpack_bits,
)
from pallas_kernels.affine_quant import num_words, tpu

# A tensor, channels, groups of four rows, tokens.
BLOCKS = {"tensor": (None, None), "channel": (None, 1), "group": (4, 1), "token": (1, None)}


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_hand(x, block, bits, symmetric):
  """Range, codes and values of each block in turn, in NumPy."""
  rows, columns = (n if b is None else b for n, b in zip(x.shape, block, strict=True))
  codes, values = np.zeros(x.shape, int), np.zeros_like(x)
  for i in range(0, x.shape[0], rows):
    for j in range(0, x.shape[1], columns):
      part = x[i : i + rows, j : j + columns]
      low = np.float32(0) if symmetric else part.min()
      levels = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
      scale = (np.abs(part).max() if symmetric else part.max() - low) / np.float32(levels)
      scale = scale or np.float32(1)
      codes[i : i + rows, j : j + columns] = np.round((part - low) / scale)
      values[i : i + rows, j : j + columns] = codes[i : i + rows, j : j + columns] * scale + low
  return codes, values


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_and_values_are_those_of_each_block_alone(bits, symmetric):
  x = normal(12, 6)
  x[:, 2] = 0.5  # Constant: its scale is 1.
  x[:, 3] = 0

  @jax.jit
  def ours(x):
    out = {}
    for name, block in BLOCKS.items():
      scale, offset = affine_range(x, block, bits=bits, symmetric=symmetric)
      codes = affine_quantize(x, scale, offset, bits=bits)
      out[name] = codes, affine_dequantize(codes, scale, offset), fake_quant(x, scale, offset, bits)
    return out

  for name, (codes, values, faked) in ours(x).items():
    right, right_values = by_hand(x, BLOCKS[name], bits, symmetric)
    assert codes.dtype == (jnp.int8 if symmetric else jnp.uint8)
    np.testing.assert_array_equal(codes, right, err_msg=name)
    np.testing.assert_allclose(values, right_values, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(faked, values, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("bits", [1, 3, 4, 7])
def test_packed_codes_come_back_and_waste_nothing(bits):
  codes = np.random.default_rng(bits).integers(0, 1 << bits, (70, 3)).astype(np.uint8)
  shifted = (codes.astype(int) - (1 << bits - 1)).astype(np.int8)

  @jax.jit
  def there_and_back(codes, shifted):
    rows = pack_bits(codes, bits, axis=0, interleave=8)
    last = pack_bits(shifted.T, bits)
    back = unpack_bits(rows, 70, bits, axis=0, interleave=8)
    return rows, last, back, unpack_bits(last, 70, bits, signed=True).T

  rows, last, back, signed = there_and_back(codes, shifted)
  np.testing.assert_array_equal(back, codes)
  np.testing.assert_array_equal(signed, shifted)
  assert last.shape == (3, num_words(70, bits))
  assert rows.shape == (num_words(70, bits, 8), 3)
  assert num_words(1024, bits, 8) * 32 == 1024 * bits


def test_words_hold_the_first_code_in_their_low_bits():
  codes = np.arange(16, dtype=np.uint8)
  words = np.asarray(pack_bits(codes, 4)).view(np.uint32)
  assert [hex(word) for word in words] == ["0x76543210", "0xfedcba98"]
  codes = np.arange(64, dtype=np.uint8) % 16
  word = int(np.asarray(pack_bits(codes, 4, interleave=8)).view(np.uint32)[3])
  assert [word >> 4 * field & 15 for field in range(8)] == list(codes[3::8])


def test_no_codes_fill_no_words():
  words = pack_bits(np.zeros((0, 2), np.int8), 4, axis=0)
  assert words.shape == (0, 2)
  assert unpack_bits(words, 0, 4, axis=0).shape == (0, 2)
  assert pack_bits(np.zeros((8, 0), np.int8), 4, axis=0).shape == (1, 0)
  assert affine_dequantize(words[:, :0], np.ones((3, 1), np.float32)).shape == (0, 0)


# Ragged against tiles of 128 x 128, with the bits that need two planes among them.
WORDS = [
  (384, 200, 4, (32, 1), False),
  (350, 130, 3, (None, None), True),
  (350, 130, 2, (1, None), False),
]


@pytest.mark.parametrize(("length", "columns", "bits", "block", "symmetric"), WORDS)
def test_kernels_pack_and_unpack_as_the_plain_form(
  length, columns, bits, block, symmetric, monkeypatch
):
  monkeypatch.setattr(tpu, "DEPTH", 128)
  monkeypatch.setattr(tpu, "COLUMNS", 128)

  @jax.jit
  def run(x):
    scale, offset = affine_range(x, block, bits=bits, symmetric=symmetric)
    words = pack_bits(affine_quantize(x, scale, offset, bits=bits), bits, axis=0, interleave=8)
    got = []
    for backend in ("interpret", None):
      ours = quantize_words(x, scale, offset, bits=bits, backend=backend)
      f = functools.partial(dequantize_words, words, length=length, bits=bits, backend=backend)
      back, backward = jax.vjp(f, scale, offset)
      grads = backward(jnp.ones_like(back))
      got.append((ours, back, grads))
    # Linear in scale and offset, so that a difference of any size is the slope.
    ahead = f(scale + 0.5, offset if offset is None else offset + 0.5)
    slope = 2 * (ahead - back).sum(), sum(g.sum() for g in jax.tree.leaves(grads))
    codes = affine_quantize(x, scale, offset, bits=bits)
    plain, backward = jax.vjp(lambda s, o: affine_dequantize(codes, s, o), scale, offset)
    return (words, plain, backward(jnp.ones_like(plain))), got, slope

  right, got, slope = run(normal(length, columns))
  np.testing.assert_allclose(*slope, rtol=1e-4)
  for words, back, grads in got:
    np.testing.assert_array_equal(words, right[0])
    np.testing.assert_allclose(back, right[1], atol=1e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(right[2]), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_no_tile_of_words_races_another(monkeypatch, capfd):
  monkeypatch.setattr(tpu, "DEPTH", 128)
  monkeypatch.setattr(tpu, "COLUMNS", 128)
  x, one = normal(256, 130), np.full((1, 1), 0.5, np.float32)
  words = quantize_words(x, one, bits=4, backend="races")
  back = dequantize_words(words, one, length=256, bits=4, backend="races")
  np.testing.assert_array_equal(back, np.clip(np.round(x / 0.5), -8, 7) * 0.5)
  assert "RACE" not in capfd.readouterr().out


def test_straight_through_passes_what_is_not_clipped():
  x = np.array([[-9.0, -4.4, -0.2, 3.4, 3.6, 9.0]], np.float32)
  scale = np.ones((1, 1), np.float32)
  weights = np.arange(1.0, 7.0, dtype=np.float32)
  grad = jax.grad(lambda x, s: (fake_quant(x, s, None, 3) * weights).sum(), argnums=(0, 1))
  dx, ds = grad(x, scale)
  np.testing.assert_array_equal(dx, [[0, 2, 3, 4, 0, 0]])
  np.testing.assert_array_equal(ds, [[0]])


@pytest.mark.parametrize("signed", [True, False])
def test_lsq_has_the_gradient_of_its_paper(signed):
  x, scale, weights = normal(8, 6), np.array([[0.3, 0.2, 0.9]], np.float32), normal(8, 6, seed=1)
  low, high = (-4, 3) if signed else (0, 7)

  @jax.jit
  def ours(x, scale):
    def loss(x, scale):
      return (lsq(x, scale, 3, signed) * weights).sum()

    return lsq(x, scale, 3, signed), jax.grad(loss, argnums=(0, 1))(x, scale)

  y, (dx, ds) = ours(x, scale)
  s = np.repeat(scale, 2, axis=1)
  v = x / s
  np.testing.assert_allclose(y, np.clip(np.round(v), low, high) * s, rtol=1e-6)
  inside = (v > low) & (v < high)
  np.testing.assert_array_equal(dx, np.where(inside, weights, 0))
  slope = np.where(inside, np.round(v) - v, np.where(v <= low, low, high))
  right = (weights * slope).reshape(8, 3, 2).sum((0, 2)) / np.sqrt(16 * high)
  np.testing.assert_allclose(ds[0], right, rtol=1e-5)


def test_lsq_starts_from_the_mean_size_of_each_block():
  x = np.array([[1.0, -3.0, 0.0, 0.0]], np.float32)
  np.testing.assert_allclose(lsq_scale(x, (1, 2), 4), [[4 / np.sqrt(7), 1]], rtol=1e-6)


def test_bad_input_is_named():
  x = jnp.zeros((6, 4))
  for call, message in [
    (lambda: affine_range(x, (4, 1), bits=4), r"\(4, 1\) do not divide data of shape \(6, 4\)"),
    (lambda: affine_range(x, (1,), bits=4), "for each dimension"),
    (lambda: affine_range(x[:0], (None, 1), bits=4), "do not divide"),
    (lambda: affine_quantize(x, jnp.ones((4, 1)), bits=4), r"\(6, 4\) cannot be split"),
    (lambda: affine_dequantize(x, jnp.ones(4)), r"cannot be split in blocks with scales \(4,\)"),
    (lambda: affine_quantize(x, jnp.ones((1, 1)), bits=1), r"bits must be in \[2, 8\], got 1"),
    (lambda: fake_quant(x.astype(int), jnp.ones((1, 1)), None, 4), "float type, got int32"),
    (lambda: lsq(x.astype(int), jnp.ones((1, 1)), 4), "float type, got int32"),
    (lambda: pack_bits(x, 4), "must be integers, got float32"),
    (lambda: pack_bits(x.astype(int), 9), "got 9"),
    (lambda: unpack_bits(x.astype(int), 9, 4), r"fill 2 words, got 4 of \(6, 4\)"),
    (lambda: unpack_bits(x, 32, 4), "must be int32"),
    (lambda: unpack_bits(x[0, 0].astype(int), 1, 4), r"along an axis, got int32 \(\)"),
    (
      lambda: affine_dequantize(x, jnp.ones((3, 4)), jnp.ones((3, 1))),
      r"offset \(3, 1\) has not the shape \(3, 4\)",
    ),
    (lambda: quantize_words(x, jnp.ones((4, 1)), bits=4), r"\(4, 1\) do not fit weights \(6, 4\)"),
    (lambda: dequantize_words(x.astype(int), x, length=9, bits=4), r"fill 8 words, got \(6, 4\)"),
  ]:
    with pytest.raises(ValueError, match=message):
      call()
