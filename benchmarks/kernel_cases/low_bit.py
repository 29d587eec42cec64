"""Packed weights, attention, attention to a quantized cache, and products with packed weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import pallas_kernels as kernels
from kernel_cases.case import HostCase, TpuCase
from kernel_cases.vector import jax_form, normal, torch_form
from pallas_kernels.affine_quant import reference as words
from pallas_kernels.attention.reference import Rule
from pallas_kernels.decode_attention import reference as decode

# Rows, steps, query heads, key heads, features.
ATTENTIONS = [(2, 1024, 8, 8, 64), (1, 2048, 8, 2, 64)]
# Rows, tokens, query heads, key heads, features; pages of 256 tokens.
CACHE = (4, 4096, 32, 8, 128)
WEIGHTS = (4096, 4096)


def plain_attention(q, k, v, causal: bool):
  group = q.shape[2] // k.shape[2]
  k, v = (jnp.repeat(x, group, axis=2) for x in (k, v))
  scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
  if causal:
    seen = jnp.tril(jnp.ones((q.shape[1], k.shape[1]), bool))
    scores = jnp.where(seen, scores, -jnp.inf)
  return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v)


def torch_attention(q, k, v, causal: bool):
  import torch

  q, k, v = (x.transpose(1, 2) for x in (q, k, v))
  sdpa = torch.nn.functional.scaled_dot_product_attention
  return sdpa(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])


def gradient(attend):
  return jax.grad(lambda q, k, v: attend(q, k, v).sum(), argnums=(0, 1, 2))


def torch_gradient(attend):
  import torch

  def run(q, k, v):
    given = [x.detach().requires_grad_() for x in (q, k, v)]
    return torch.autograd.grad(attend(*given).sum(), given)

  return run


def attention_cases() -> list[HostCase]:
  cases = []
  for batch, steps, heads, key_heads, features in ATTENTIONS:
    q = functools.partial(normal, batch, steps, heads, features)
    k, v = (
      functools.partial(normal, batch, steps, key_heads, features, seed=seed) for seed in (1, 2)
    )
    for causal in (True, False):
      mask = kernels.Causal() if causal else None
      ours = functools.partial(kernels.attention, mask=mask)
      plain = functools.partial(plain_attention, causal=causal)
      theirs = functools.partial(jax.nn.dot_product_attention, is_causal=causal)
      peer = functools.partial(torch_attention, causal=causal)
      size = f"{batch} x {steps} x {heads}/{key_heads} x {features}{', causal' if causal else ''}"
      forms = {
        "ours": jax_form(ours, q, k, v),
        "plain JAX": jax_form(plain, q, k, v),
        "jax.nn": jax_form(theirs, q, k, v),
        "torch": torch_form(peer, q, k, v),
        "torch.compile": torch_form(peer, q, k, v, compiled=True),
      }
      cases.append(HostCase("attention", size, forms))
      forms = {
        "ours": jax_form(gradient(ours), q, k, v),
        "plain JAX": jax_form(gradient(plain), q, k, v),
        "jax.nn": jax_form(gradient(theirs), q, k, v),
        "torch": torch_form(torch_gradient(peer), q, k, v),
      }
      cases.append(HostCase("attention_gradient", size, forms))
  return cases


def quantized_cache(bits):
  batch, tokens, _, heads, features = CACHE
  shape = batch * tokens // 256, 256, heads, features
  make = functools.partial(kernels.quantize_pages, bits=bits, key_group=64, value_group=64)
  return jax.jit(make)(normal(*shape, seed=1), normal(*shape, seed=2))


def decode_case(bits: int) -> HostCase:
  batch, tokens, heads, key_heads, features = CACHE
  table = np.arange(batch * tokens // 256, dtype=np.int32).reshape(batch, -1)
  lengths = np.full(batch, tokens, np.int32)

  def on_pages(attend):
    def make():
      pages, q = quantized_cache(bits), jnp.asarray(normal(batch, heads, features))
      given, compiled = (q, pages, jnp.asarray(table), jnp.asarray(lengths)), jax.jit(attend)
      return lambda: jax.block_until_ready(compiled(*given))

    return make

  def plain(q, pages, table, lengths):
    return decode.decode_attention(q, pages, table, lengths, rule=Rule(features**-0.5, None))

  q = functools.partial(normal, batch, 1, heads, features)
  k, v = (
    functools.partial(normal, batch, tokens, key_heads, features, seed=seed) for seed in (1, 2)
  )
  forms = {
    "ours": on_pages(kernels.decode_attention),
    "plain JAX": on_pages(plain),
    "float32 cache, plain JAX": jax_form(functools.partial(plain_attention, causal=False), q, k, v),
    "float32 cache, torch": torch_form(functools.partial(torch_attention, causal=False), q, k, v),
  }
  size = f"{batch} x {tokens} x {heads}/{key_heads} x {features}, {bits} bits"
  return HostCase("decode_attention", size, forms)


def packed_weights(bits: int):
  """Words, scales and offsets of groups of 128."""
  w = normal(*WEIGHTS, seed=1)
  scale, offset = kernels.affine_range(w, (128, 1), bits=bits)
  return kernels.quantize_words(w, scale, offset, bits=bits), scale, offset


def product_case(rows: int, bits: int) -> HostCase:
  length, columns = WEIGHTS

  def on_words(multiply):
    def make():
      given = jnp.asarray(normal(rows, length)), *packed_weights(bits)
      compiled = jax.jit(multiply)
      return lambda: jax.block_until_ready(compiled(*given))

    return make

  def plain(x, packed, scale, offset):
    per = 32 // bits
    codes = packed.reshape(-1, 1, 8, columns) >> (jnp.arange(per) * bits)[:, None, None]
    codes = (codes & ((1 << bits) - 1)).reshape(-1, 128, columns).astype(jnp.float32)
    return x @ (codes * scale[:, None] + offset[:, None]).reshape(length, columns)

  x, w = functools.partial(normal, rows, length), functools.partial(normal, *WEIGHTS, seed=1)
  forms = {
    "ours": on_words(functools.partial(kernels.quant_matmul, bits=bits)),
    "plain JAX": on_words(plain),
    "float32 weights, plain JAX": jax_form(jnp.matmul, x, w),
    "float32 weights, torch": torch_form(lambda x, w: x @ w, x, w),
  }
  return HostCase("quant_matmul", f"{rows} x {length} x {columns}, {bits} bits", forms)


def ternary_case(rows: int) -> HostCase:
  """BitNet's product, beside that of floats which nothing rounds."""
  length, columns = WEIGHTS

  def on_words(multiply):
    def make():
      x, w = jnp.asarray(normal(rows, length)), jnp.asarray(normal(*WEIGHTS, seed=1))
      given = x, *jax.jit(kernels.ternary_weights)(w)
      compiled = jax.jit(multiply)
      return lambda: jax.block_until_ready(compiled(*given))

    return make

  def plain(x, packed, scale):
    step = jnp.abs(x).max(axis=1, keepdims=True) / 127
    codes = packed.reshape(-1, 1, 8, columns) << (30 - jnp.arange(16) * 2)[:, None, None] >> 30
    signs = codes.reshape(length, columns).astype(jnp.float32)
    return jnp.round(x / step) @ signs * step * scale

  x, w = functools.partial(normal, rows, length), functools.partial(normal, *WEIGHTS, seed=1)
  forms = {
    "ours": on_words(kernels.ternary_matmul),
    "plain JAX": on_words(plain),
    "float32 weights, plain JAX": jax_form(jnp.matmul, x, w),
    "float32 weights, torch": torch_form(lambda x, w: x @ w, x, w),
  }
  return HostCase("ternary_matmul", f"{rows} x {length} x {columns}", forms)


def additive_case(rows: int, books: int, bits: int) -> HostCase:
  length, columns = WEIGHTS
  shape = columns, length // 8, books
  codes = functools.partial(np.random.default_rng(2).integers, 0, 1 << bits, shape, np.int32)
  given = (
    functools.partial(normal, rows, length),
    codes,
    functools.partial(normal, books, 1 << bits, 1, 8, seed=1),
    functools.partial(normal, columns, 1, seed=3),
  )

  def plain(x, codes, codebooks, scales):
    w = sum(codebooks[book][codes[..., book]] for book in range(books))
    return x @ (w.reshape(columns, length) * scales).T

  forms = {
    "ours": jax_form(kernels.additive_matmul, *given),
    "plain JAX": jax_form(plain, *given),
  }
  return HostCase("additive_matmul", f"{rows} x {length} x {columns}, {books} x {bits}", forms)


def word_case(bits: int) -> HostCase:
  """Rounding to packed codes and, in a second program, back; beside PyTorch's rounding alone."""
  length, columns = WEIGHTS

  def pack(x):
    scale, offset = kernels.affine_range(x, (None, 1), bits=bits)
    return kernels.quantize_words(x, scale, offset, bits=bits), scale, offset

  def unpack(words, scale, offset):
    return kernels.dequantize_words(words, scale, offset, length=length, bits=bits)

  places = bits * np.arange(32 // bits, dtype=np.uint32)[:, None]

  def plain_pack(x):
    low, high = x.min(0), x.max(0)
    scale = (high - low) / (2**bits - 1)
    codes = jnp.round((x - low) / scale).astype(jnp.uint32).reshape(-1, 32 // bits, columns)
    return (codes << places).sum(axis=1, dtype=jnp.uint32), scale, low

  def plain_unpack(words, scale, low):
    codes = (words[:, None] >> places) & (2**bits - 1)
    return codes.reshape(length, columns) * scale + low

  def in_turn(pack, unpack):
    def make():
      given, first, second = jnp.asarray(x()), jax.jit(pack), jax.jit(unpack)
      return lambda: jax.block_until_ready(second(*first(given)))

    return make

  def peer(x):
    import torch

    low, high = x.amin(0), x.amax(0)
    scale = (high - low) / (2**bits - 1)
    return torch.round((x - low) / scale) * scale + low

  x = functools.partial(normal, *WEIGHTS)
  forms = {
    "ours": in_turn(pack, unpack),
    "plain JAX": in_turn(plain_pack, plain_unpack),
    "torch": torch_form(peer, x),
    "torch.compile": torch_form(peer, x, compiled=True),
  }
  size = f"{length} x {columns}, {bits} bits; PyTorch does not pack"
  return HostCase("affine_quant", size, forms)


def host_cases() -> list[HostCase]:
  cases = attention_cases()
  cases += [decode_case(bits) for bits in (8, 4)]
  cases += [product_case(rows, bits) for rows, bits in ((1, 8), (1, 4), (1, 2), (64, 4))]
  cases += [ternary_case(rows) for rows in (1, 64)]
  cases += [additive_case(*sizes) for sizes in ((1, 2, 8), (1, 1, 16), (64, 2, 8))]
  return [*cases, word_case(4)]


def tpu_cases() -> list[TpuCase]:
  shape = jax.ShapeDtypeStruct
  q, k = (shape((1, 4096, heads, 128), jnp.bfloat16) for heads in (16, 4))
  attend = functools.partial(kernels.attention, mask=kernels.Causal())
  size = "1 x 4096 x 16/4 x 128, causal"
  cases = [
    TpuCase("attention", size, attend, (q, k, k), "bfloat16", 1),
    TpuCase("attention_gradient", size, gradient(attend), (q, k, k), "bfloat16", 1),
  ]
  rows, tokens, page = 16, 8192, shape((512, 256, 8, 128), jnp.bfloat16)
  q, table = shape((rows, 32, 128), jnp.bfloat16), shape((rows, tokens // 256), jnp.int32)
  plain = functools.partial(decode.decode_attention, rule=Rule(128**-0.5, None))
  for bits in (8, 4, 2):
    make = functools.partial(kernels.quantize_pages, bits=bits, key_group=64, value_group=64)
    shapes = q, jax.eval_shape(make, page, page), table, shape((rows,), jnp.int32)
    size = f"{rows} x {tokens} x 32/8 x 128, {bits} bits"
    cases.append(TpuCase("decode_attention", size, kernels.decode_attention, shapes, "bfloat16", 1))
    if bits == 4:
      cases.append(TpuCase("decode_attention", f"{size}, XLA", plain, shapes, "bfloat16", 6))
  length, columns = 8192, 8192
  scale = shape((length // 128, columns), jnp.float32)
  for rows, bits in ((1, 8), (1, 4), (1, 2), (4096, 4)):
    f = functools.partial(kernels.quant_matmul, bits=bits)
    packed = shape((length * bits // 32, columns), jnp.int32)
    given = shape((rows, length), jnp.bfloat16), packed, scale, scale
    size = f"{rows} x {length} x {columns}, {bits} bits"
    cases.append(TpuCase("quant_matmul", size, f, given, "bfloat16", 1))
  given = shape((1, length), jnp.bfloat16), shape((length, columns), jnp.bfloat16)
  size = f"1 x {length} x {columns}, bfloat16 weights, XLA"
  cases.append(TpuCase("quant_matmul", size, jnp.matmul, given, "bfloat16", 1))
  pack = functools.partial(kernels.quantize_words, bits=4)
  static = {"length": length, "bits": 4, "dtype": jnp.bfloat16}
  given = shape((length, columns), jnp.bfloat16), scale, scale
  packed = shape((length // 8, columns), jnp.int32), scale, scale
  size = f"{length} x {columns}, 4 bits"
  forms = (
    ("pack", pack, functools.partial(words.quantize_words, bits=4), given),
    (
      "unpack",
      functools.partial(kernels.dequantize_words, **static),
      functools.partial(words.dequantize_words, **static),
      packed,
    ),
  )
  for name, ours, plain, shapes in forms:
    cases.append(TpuCase("affine_quant", f"{size}, {name}", ours, shapes, "bfloat16", 1))
    cases.append(TpuCase("affine_quant", f"{size}, {name}, XLA", plain, shapes, "bfloat16", 1))
  return cases
