"""Search for entries, residual quantization and the sum of entries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kernel_cases.case import HostCase, TpuCase
from pallas_kernels import dequantize, nearest_code, residual_quantize
from pallas_kernels.dequantize import reference as sum_of_entries
from pallas_kernels.nearest_code import tpu

# Rows, entries, features.
SEARCHES = [(150, 1024, 128), (8192, 1024, 256), (16_384, 16_384, 64), (65_536, 16_384, 64)]
# Rows, stages, entries, features: two seconds of EnCodec at 24 kHz, and a training batch.
STAGES = [(150, 8, 1024, 128), (8192, 4, 1024, 256)]


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def jax_form(function, *inputs):
  """Plain or ours: compiled, on inputs that are on the device already."""

  def make():
    compiled, given = jax.jit(function), [jnp.asarray(x()) for x in inputs]
    return lambda: jax.block_until_ready(compiled(*given))

  return make


def torch_form(function, *inputs, compiled=False):
  def make():
    import torch

    given = [torch.from_numpy(x()) for x in inputs]
    run = torch.compile(function) if compiled else function
    return lambda: run(*given)

  return make


def plain_search(z, codebook):
  distance = jnp.sum(codebook**2, axis=-1) - 2 * jnp.matmul(z, codebook.T, precision="highest")
  return jnp.argmin(distance, axis=-1)


def torch_search(z, codebook):
  import torch

  return torch.cdist(z, codebook).argmin(dim=-1)


def plain_stages(z, codebooks):
  def stage(rest, codebook):
    codes = plain_search(rest, codebook)
    return rest - codebook[codes], codes

  rest, codes = jax.lax.scan(stage, z, codebooks)
  return codes.T, z - rest


def torch_stages(z, codebooks):
  import torch

  rest, codes = z, []
  for codebook in codebooks:
    codes.append(torch_search(rest, codebook))
    rest = rest - codebook[codes[-1]]
  return torch.stack(codes, dim=-1), z - rest


def plain_sum(codes, codebooks):
  return jax.vmap(lambda codebook, codes: codebook[codes])(codebooks, codes.T).sum(axis=0)


def one_hot_sum(codes, codebooks):
  chosen = jax.nn.one_hot(codes, codebooks.shape[1])
  return jnp.einsum("nqk,qkd->nd", chosen, codebooks, precision="highest")


def torch_sum(codes, codebooks):
  import torch

  pairs = zip(codebooks, codes.T, strict=True)
  return sum(torch.nn.functional.embedding(codes, codebook) for codebook, codes in pairs)


def host_cases() -> list[HostCase]:
  cases = []
  for n, k, d in SEARCHES:
    given = functools.partial(normal, n, d), functools.partial(normal, k, d, seed=1)
    forms = {
      "ours": jax_form(nearest_code, *given),
      "plain JAX": jax_form(plain_search, *given),
      "torch": torch_form(torch_search, *given),
      "torch.compile": torch_form(torch_search, *given, compiled=True),
    }
    work = 2.0 * n * k * d, 4.0 * (n * d + k * d + n)
    cases.append(HostCase("nearest_code", f"{n} x {k} x {d}", forms, *work))
  for n, q, k, d in STAGES:
    books = functools.partial(normal, q, k, d, seed=1)
    given = functools.partial(normal, n, d), books
    codes = functools.partial(np.random.default_rng(2).integers, 0, k, (n, q))
    size = f"{n} x {q} x {k} x {d}"
    forms = {
      "ours": jax_form(residual_quantize, *given),
      "plain JAX": jax_form(plain_stages, *given),
      "torch": torch_form(torch_stages, *given),
      "torch.compile": torch_form(torch_stages, *given, compiled=True),
    }
    work = 2.0 * n * q * k * d, 4.0 * (2 * n * d + q * k * d + n * q)
    cases.append(HostCase("residual_quantize", size, forms, *work))
    forms = {
      "ours": jax_form(dequantize, codes, books),
      "plain JAX": jax_form(plain_sum, codes, books),
      "one-hot products, JAX": jax_form(one_hot_sum, codes, books),
      "torch": torch_form(torch_sum, codes, books),
      "torch.compile": torch_form(torch_sum, codes, books, compiled=True),
    }
    work = 1.0 * n * q * d, 4.0 * (n * q + n * d + q * min(n, k) * d)
    cases.append(HostCase("dequantize", size, forms, *work))
  return cases


def tpu_cases() -> list[TpuCase]:
  n, k, d = 1 << 20, 16_384, 256
  numbers = jax.ShapeDtypeStruct((n,), jnp.float32)
  cases = []
  for dtype, kind, passes in (
    (jnp.float32, "bfloat16", 6),
    (jnp.bfloat16, "bfloat16", 1),
    (jnp.int8, "int8", 1),
  ):
    z = jax.ShapeDtypeStruct((n, d), dtype)
    shapes = z, z.update(shape=(k, d)), numbers.update(shape=(k,))
    search = functools.partial(tpu.search, candidates=4)
    factor = (numbers,) if dtype == jnp.int8 else (None,)
    size = f"{n} x {k} x {d}, {jnp.dtype(dtype).name} scores"
    cases.append(TpuCase("nearest_code", size, search, (*shapes, *factor), kind, passes))
  for n, q, k, d in [(1 << 20, 8, 1024, 128), (1 << 16, 12, 2048, 512)]:
    z, codes = jax.ShapeDtypeStruct((n, d), jnp.float32), jax.ShapeDtypeStruct((n, q), jnp.int32)
    books, size = z.update(shape=(q, k, d)), f"{n} x {q} x {k} x {d}"
    # Six passes for the search and three for the product that takes the entries.
    cases.append(TpuCase("residual_quantize", size, residual_quantize, (z, books), "bfloat16", 4.5))
    cases.append(TpuCase("dequantize", size, dequantize, (codes, books), "bfloat16", 3))
    gather = sum_of_entries.dequantize
    cases.append(TpuCase("dequantize", f"{size}, gather", gather, (codes, books), "bfloat16", 0))
  return cases
