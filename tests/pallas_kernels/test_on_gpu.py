"""The GPU kernels: interpreted against the reference, lowered and compiled without a GPU."""

import functools

import gpu_topologies as topologies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_attention_kernel import CASES, inputs, value_and_grads

from pallas_kernels import (
  Alibi,
  Causal,
  Chunked,
  Lengths,
  Segments,
  additive_matmul,
  affine_range,
  attention,
  decode_attention,
  dequantize,
  dequantize_words,
  dispatch,
  lsq,
  nearest_code,
  quant_matmul,
  quantize_pages,
  quantize_words,
  rans_decode,
  rans_encode,
  residual_quantize,
  ternary_matmul,
)
from pallas_kernels.attention import cudnn
from pallas_kernels.attention.reference import Rule

shape = jax.ShapeDtypeStruct


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def grid(*shape, seed=0):
  """Small whole numbers, whose sums and products are exact in any order; ties abound."""
  return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


# 140 features are read in parts; 300 rows and 260 entries leave tiles half full.
@pytest.mark.parametrize(("n", "k", "d"), [(5, 3, 7), (300, 260, 140)])
def test_search_finds_the_nearest_and_the_first_of_equals(n, k, d):
  z, codebook = grid(n, d), grid(k, d, seed=1)
  codebook[1] = codebook[2]
  z[3, 2] = np.nan
  want = np.argmin((codebook**2).sum(-1) - 2 * np.nan_to_num(z) @ codebook.T, axis=1)
  want[3] = 0
  for scoring in ("float32", "int8") if n == 5 else ("float32",):
    got = nearest_code(z, codebook, scoring=scoring, backend="interpret_gpu")
    np.testing.assert_array_equal(got, want)


def test_search_by_rough_scores_misses_the_nearest_seldom_and_by_little():
  z, codebook = normal(256, 16), normal(600, 16, seed=1)
  distance = ((z[:, None] - codebook) ** 2).sum(axis=-1)
  codes = nearest_code(z, codebook, scoring="bfloat16", backend="interpret_gpu")
  got = distance[np.arange(256), codes]
  # Two near entries share one of 128 classes in about one row of a hundred.
  assert (got == distance.min(axis=-1)).mean() > 0.97
  assert (got <= 1.1 * distance.min(axis=-1)).all()


PRODUCTS = {
  "a row, 4 bits, groups within a run": (1, 192, 70, 4, (32, 1), False, np.float32),
  "8 bits, channels": (3, 350, 70, 8, (None, 1), True, np.float32),
  "8 bits, tensor, bfloat16": (20, 64, 30, 8, (None, None), True, jnp.bfloat16),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_packed_weights(name):
  rows, length, columns, bits, block, symmetric, dtype = PRODUCTS[name]
  x, w = normal(rows, length).astype(dtype), normal(length, columns, seed=1)

  @jax.jit
  def run(x, w):
    scale, offset = affine_range(w, block, bits=bits, symmetric=symmetric)
    words = quantize_words(w, scale, offset, bits=bits, backend="reference")
    f = functools.partial(quant_matmul, x, words, scale, offset, bits=bits)
    return f(backend="interpret_gpu"), f(backend="reference")

  got, right = (np.asarray(y, np.float32) for y in run(x, w))
  # float32 sums of some hundred terms; results of bfloat16 may fall on either side of a half.
  np.testing.assert_allclose(got, right, atol=1e-4 if dtype == np.float32 else 0.25)


LENGTHS = np.array([0, 150, 64], np.int32)
TABLE = np.array([[6, 6, 6], [4, 0, 2], [1, 999, -5]], np.int32)
CACHES = [
  pytest.param((8, 8), 16, 3.0, np.float32, id="8 bits, a soft cap"),
  pytest.param((8, 4), 32, None, jnp.bfloat16, id="8 and 4 bits, bfloat16", marks=pytest.mark.slow),
  pytest.param((4, 4), 32, None, np.float32, id="4 bits", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("bits", "value_group", "soft_cap", "dtype"), CACHES)
def test_a_query_over_quantized_pages(bits, value_group, soft_cap, dtype):
  q = normal(3, 8, 32).astype(dtype)
  k, v = normal(7, 64, 2, 32, seed=1), normal(7, 64, 2, 32, seed=2)
  make = functools.partial(quantize_pages, bits=bits, key_group=32, value_group=value_group)
  pages = jax.tree.map(np.asarray, jax.jit(make)(k, v))
  spoilt = pages._replace(
    **{name: np.array(getattr(pages, name)) for name in ("k_scale", "v_scale")}
  )
  spoilt.k_scale[[3, 5]] = np.nan  # Pages that no row uses.
  spoilt.v_scale[2, ..., 150 - 128 :] = np.nan  # The unused end of row 1's last page.

  @jax.jit
  def run(q, pages, spoilt):
    f = functools.partial(decode_attention, soft_cap=soft_cap)
    got = f(q, spoilt, TABLE, LENGTHS, backend="interpret_gpu")
    return got, f(q, pages, TABLE, LENGTHS, backend="reference")

  got, right = (np.asarray(y, np.float32) for y in run(q, pages, spoilt))
  assert not got[0].any()
  # Of bfloat16, weights and keys have 8 bits.
  np.testing.assert_allclose(got, right, atol=1e-5 if dtype == np.float32 else 3e-2)


@pytest.mark.parametrize("name", ["capped", pytest.param("penalty", marks=pytest.mark.slow)])
def test_attention_and_its_gradient_equal_the_definition(name):
  mask, bias, soft_cap, dtype = CASES[name]
  q, k, v, weights = inputs(dtype)

  @jax.jit
  def run(*args):
    f = functools.partial(value_and_grads, mask=mask, soft_cap=soft_cap)
    return [f(*args, backend=backend) for backend in ("reference", "interpret_gpu")]

  for a, b in zip(*run(q, k, v, bias, weights), strict=True):
    np.testing.assert_allclose(b, a, atol=2e-5)  # float32 sums of 200 terms.


def test_nothing_in_nothing_out():
  assert nearest_code(grid(0, 6), grid(20, 6), backend="interpret_gpu").shape == (0,)
  words, scale = np.zeros((8, 5), np.int32), np.ones((1, 1), np.float32)
  multiply = functools.partial(quant_matmul, bits=8, backend="interpret_gpu")
  assert multiply(np.zeros((0, 32), np.float32), words, scale).shape == (0, 5)
  q, k = np.zeros((2, 3, 4, 8), np.float32), np.zeros((2, 0, 2, 8), np.float32)
  np.testing.assert_array_equal(attention(q, k, k, backend="interpret_gpu"), q)


def search():
  z, codebook = shape((1 << 20, 256), jnp.bfloat16), shape((16_384, 256), jnp.bfloat16)
  return functools.partial(nearest_code, scoring="bfloat16", backend="gpu"), z, codebook


def product(bits, rows):
  scale, words = shape((64, 8192), jnp.float32), shape((256 * bits, 8192), jnp.int32)
  f = functools.partial(quant_matmul, bits=bits, backend="gpu")
  return f, shape((rows, 8192), jnp.bfloat16), words, scale, scale


def over_pages(bits):
  make = functools.partial(quantize_pages, bits=bits, key_group=64, value_group=64)
  page = shape((512, 256, 8, 128), jnp.bfloat16)
  numbers = (shape(s, jnp.int32) for s in ((16, 32), (16,)))
  f = functools.partial(decode_attention, backend="gpu")
  return f, shape((16, 32, 128), jnp.bfloat16), jax.eval_shape(make, page, page), *numbers


def attend(mask, slopes=None, soft_cap=None):
  q, k = (shape((4, 4096, heads, 128), jnp.bfloat16) for heads in (16, 4))

  def loss(q, k, v, mask, slopes):
    bias = None if slopes is None else Alibi(slopes)
    y = attention(q, k, v, mask=mask, bias=bias, soft_cap=soft_cap, backend="gpu")
    return y.astype(jnp.float32).sum()

  return jax.grad(loss, (0, 1, 2)), q, k, k, mask, slopes


IDS = shape((4, 4096), jnp.int32)
MASKS = Chunked(160, 2) & Lengths(shape((4,), jnp.int32)) | Segments(IDS, IDS)
PROGRAMS = {
  "search": (search, (), 1),
  "product, a row of 4 bits": (product, (4, 1), 1),
  "product, rows of 2 bits": (product, (2, 4096), 1),
  "pages of 8 bits": (over_pages, (8,), 1),
  "pages of 4 bits": (over_pages, (4,), 1),
  "pages of 2 bits": (over_pages, (2,), 1),
  "pages of 4 and 2 bits": (over_pages, ((4, 2),), 1),
  "attention, causal": (attend, (Causal(),), 3),
  "attention, masks": (attend, (MASKS, shape((16,), jnp.float32), 50.0), 3),
}


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "pages of 2 bits"])
def test_it_is_lowered_for_cuda_on_any_machine(name):
  make, args, count = PROGRAMS[name]
  assert topologies.kernels(topologies.lowered(*make(*args))) == count


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_compiles_for_an_h200(name):
  make, args, count = PROGRAMS[name]
  compiled = topologies.compile_for_h200(*make(*args))
  assert topologies.kernels(compiled.as_text()) == count


def test_lowered_where_no_gpu_is_every_op_is_plain_jax():
  x, q, k = (shape(s, jnp.float32) for s in ((64, 8), (2, 3, 4, 32), (2, 64, 2, 32)))
  scale, words, number = (shape(s, jnp.int32) for s in ((2, 8), (8, 8), (5,)))
  scale = scale.update(dtype=jnp.float32)
  books, codes = x.update(shape=(2, 5, 8)), words.update(shape=(64, 2))
  additive = words.update(shape=(6, 1, 1)), x.update(shape=(1, 4, 1, 8)), x.update(shape=(6, 1))
  pages = functools.partial(quantize_pages, bits=4, key_group=32, value_group=32)
  rows = words.update(shape=(9, 5))
  wide = x.update(shape=(3, 64))

  def every(x, q, k, scale, words, number, books, codes, additive, rows, wide, pages):
    return (
      nearest_code(x, books[0]),
      residual_quantize(x, books),
      dequantize(codes, books),
      quantize_words(x, scale, bits=4),
      dequantize_words(words, scale, length=64, bits=4),
      lsq(x, scale, 4),
      quant_matmul(wide, words, scale, bits=4),
      ternary_matmul(wide, words[:8], scale[:1]),
      additive_matmul(x, *additive),
      jax.grad(lambda q: attention(q, k, k, mask=Causal()).sum())(q),
      decode_attention(q[:, 0], pages, codes[:2, :1], codes[:2, 0]),
      rans_encode(rows, rows, 12),
      rans_decode(rows.T, number, number, codes.T, rows, 12),
    )

  given = x, q, k, scale, words, number, books, codes, additive, rows, wide
  exported = jax.export.export(jax.jit(every), platforms=["cuda"])
  program = exported(*given, jax.eval_shape(pages, k, k)).mlir_module()
  assert "custom_call" not in program


def test_on_hopper_the_default_is_the_kernel_where_it_is_quicker(monkeypatch):
  monkeypatch.setattr(dispatch, "has_hopper", lambda: True)
  q, k = shape((2, 64, 4, 32), jnp.float32), shape((2, 64, 2, 32), jnp.float32)
  pages = jax.eval_shape(
    functools.partial(quantize_pages, bits=4, key_group=32, value_group=32), k, k
  )
  words, scale = shape((16, 8), jnp.int32), shape((2, 8), jnp.float32)
  table, lengths = shape((2, 1), jnp.int32), shape((2,), jnp.int32)
  causal = functools.partial(attention, mask=Causal())
  multiply = functools.partial(quant_matmul, bits=4)
  few, many, wide = (shape(s, jnp.float32) for s in ((8, 8), (1 << 15, 8), (2, 64, 4, 256)))
  cases = (
    (1, nearest_code, many, shape((1024, 8), jnp.float32)),
    (0, nearest_code, few, few),
    (1, multiply, shape((16, 128), jnp.float32), words, scale),
    (0, multiply, shape((17, 128), jnp.float32), words, scale),
    (1, decode_attention, shape((2, 4, 32), jnp.float32), pages, table, lengths),
    (3, jax.grad(lambda *a: causal(*a).sum(), (0, 1, 2)), q, k, k),
    (0, causal, wide, wide, wide),
  )
  for count, function, *shapes in cases:
    assert topologies.kernels(topologies.lowered(function, *shapes)) == count


@pytest.mark.parametrize("mask", [None, Causal()])
def test_what_cudnn_is_asked_for_is_the_definition(mask, monkeypatch):
  monkeypatch.setattr(cudnn, "has_hopper", lambda: True)
  theirs = functools.partial(jax.nn.dot_product_attention, implementation="xla")
  monkeypatch.setattr(
    jax.nn, "dot_product_attention", lambda *a, implementation, **k: theirs(*a, **k)
  )
  q, k, v = (jnp.asarray(normal(2, 40, h, 16, seed=h), jnp.bfloat16) for h in (4, 2, 2))
  rule = Rule(0.3, None)
  assert cudnn.takes(q, k, None, mask, rule)
  assert not cudnn.takes(q, k, None, Causal(1), rule)
  assert not cudnn.takes(q, k[:, :39], None, None, rule)
  assert not cudnn.takes(q, k, None, mask, Rule(0.3, 5.0))
  got = cudnn.attention(q, k, v, mask=mask, rule=rule)
  right = attention(q, k, v, mask=mask, scale=0.3, backend="reference")
  np.testing.assert_allclose(*(np.asarray(y, np.float32) for y in (got, right)), atol=2e-2)
