"""Rounding and packing of weights, and products with packed weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import pallas_kernels as kernels
from kernel_cases.case import HostCase, TpuCase
from kernel_cases.vector import jax_form, normal, torch_form
from pallas_kernels.affine_quant import reference as words

WEIGHTS = (4096, 4096)


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
  peer = torch_packed(rows, bits)
  if peer:
    forms[f"torch's packed {bits} bits"] = peer
  moved = length * columns * (bits / 8 + 8 / 128) + 4.0 * rows * (length + columns)
  work = 2.0 * rows * length * columns, moved
  return HostCase("quant_matmul", f"{rows} x {length} x {columns}, {bits} bits", forms, *work)


def torch_packed(rows: int, bits: int):
  """PyTorch's own products with packed weights: groups of 128 of 4 bits, channels of 8."""
  length, columns = WEIGHTS

  def make():
    import torch

    x = torch.from_numpy(normal(rows, length))
    codes = np.random.default_rng(1).integers(0, 16, (columns, length), np.int32)
    if bits == 8:
      w, scales = torch.from_numpy(codes.astype(np.int8)), torch.ones(columns)
      return lambda: torch.ops.aten._weight_int8pack_mm(x, w, scales)
    w = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.from_numpy(codes), 1)
    sides = torch.ones(length // 128, columns, 2)
    return lambda: torch.ops.aten._weight_int4pack_mm_for_cpu(x, w, 128, sides)

  return make if bits in (4, 8) else None


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
  moved = length * columns / 4 + 4.0 * rows * (length + columns)
  work = 2.0 * rows * length * columns, moved
  return HostCase("ternary_matmul", f"{rows} x {length} x {columns}", forms, *work)


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

  def peer(x, codes, codebooks, scales):
    import torch

    look = torch.nn.functional.embedding
    w = sum(look(codes[..., book], codebooks[book, :, 0]) for book in range(books))
    return x @ (w.reshape(columns, length) * scales).T

  forms = {
    "ours": jax_form(kernels.additive_matmul, *given),
    "plain JAX": jax_form(plain, *given),
    "torch": torch_form(peer, *given),
    "torch.compile": torch_form(peer, *given, compiled=True),
  }
  moved = 4.0 * columns * length / 8 * books + 4.0 * rows * (length + columns)
  size = f"{rows} x {length} x {columns}, {books} x {bits}"
  return HostCase("additive_matmul", size, forms, 2.0 * rows * length * columns, moved)


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
  return HostCase("affine_quant", size, forms, 0.0, 2.0 * length * columns * (4 + bits / 8))


def lsq_case(bits: int) -> HostCase:
  """Rounding with a trained scale a column, and its gradient."""
  length, columns = WEIGHTS
  low, high = -(1 << bits - 1), (1 << bits - 1) - 1
  balance = (length * high) ** -0.5

  def loss(rounded):
    return jax.grad(lambda x, scale: (rounded(x, scale) * x).sum(), (0, 1))

  def plain(x, scale):
    stop = jax.lax.stop_gradient
    s = scale * balance + stop(scale * (1 - balance))
    v = jnp.clip(x / s, low, high)
    return (v + stop(jnp.round(v) - v)) * s

  def peer(x, scale):
    import torch

    x, scale = (a.detach().requires_grad_() for a in (x, scale))
    s = scale * balance + (scale * (1 - balance)).detach()
    v = (x / s).clamp(low, high)
    y = (v + (v.round() - v).detach()) * s
    return torch.autograd.grad((y * x).sum(), (x, scale))

  given = functools.partial(normal, *WEIGHTS), lambda: np.full((1, columns), 0.3, np.float32)
  forms = {
    "ours": jax_form(loss(functools.partial(kernels.lsq, bits=bits)), *given),
    "plain JAX": jax_form(loss(plain), *given),
    "torch": torch_form(peer, *given),
  }
  size = f"{length} x {columns}, {bits} bits, with gradient"
  return HostCase("lsq", size, forms, 0.0, 8.0 * length * columns)


def host_cases() -> list[HostCase]:
  cases = [product_case(rows, bits) for rows, bits in ((1, 8), (1, 4), (1, 2), (64, 4))]
  cases += [ternary_case(rows) for rows in (1, 64)]
  cases += [additive_case(*sizes) for sizes in ((1, 2, 8), (1, 1, 16), (64, 2, 8))]
  return [*cases, word_case(4), lsq_case(4)]


def tpu_cases() -> list[TpuCase]:
  shape, cases = jax.ShapeDtypeStruct, []
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
