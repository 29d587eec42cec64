"""Weights [K, N] to packed codes and back in one pass, where XLA on TPU would take several.

The codes are packed along K with interleave 8, as `quant_matmul` takes them.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.affine_quant import reference, tpu
from pallas_kernels.affine_quant.op import limits
from pallas_kernels.affine_quant.pack import num_words
from pallas_kernels.affine_quant.tiles import INTERLEAVE
from pallas_kernels.backend import Backend, interpret
from pallas_kernels.dispatch import dispatch


def quantize_words(
  x: jax.Array,
  scale: jax.Array,
  offset: jax.Array | None = None,
  *,
  bits: int,
  backend: Backend | None = None,
) -> jax.Array:
  """`pack_bits(affine_quantize(x, scale, offset, bits=bits), bits, axis=0, interleave=8)`.

  Args:
    x: `[K, N]`, any float type.
    scale: `[groups of K, N or 1]`.
    offset: as scale; None for signed codes.
    bits: 2 to 8; 1, too, of codes with an offset.
    backend: None picks one for each platform; see `pallas_kernels.dispatch`.

  Returns:
    int32 `[num_words(K, bits, 8), N]`; it carries no gradient.

  Raises:
    ValueError: if shapes do not fit.
  """
  x, scale, offset = jax.lax.stop_gradient((x, scale, offset))
  _check(x.shape, scale, offset, bits)
  args = x, scale, offset
  if backend == "reference" or x.size == 0:
    return reference.quantize_words(*args, bits=bits)
  if backend is not None:
    return tpu.quantize_words(*args, bits=bits, interpret=interpret(backend))
  given = [a for a in args if a is not None]
  return dispatch(*given, **_forms("quantize_words", bits=bits))[0]


def dequantize_words(
  words: jax.Array,
  scale: jax.Array,
  offset: jax.Array | None = None,
  *,
  length: int,
  bits: int,
  dtype=jnp.float32,
  backend: Backend | None = None,
) -> jax.Array:
  """Weights `[length, N]` of packed codes, dequantized in float32 and rounded to `dtype`.

  Args:
    words: int32 `[num_words(length, bits, 8), N]`.
    scale: `[groups of K, N or 1]`.
    offset: as scale; None for signed codes.
    length: K.
    bits: 2 to 8; 1, too, of codes with an offset.
    dtype: of the result.
    backend: as in `quantize_words`.

  Returns:
    `[length, N]`. Gradients go to scale and offset.

  Raises:
    ValueError: if shapes do not fit.
  """
  if words.ndim != 2 or words.dtype != jnp.int32:
    raise ValueError(f"words must be int32 [., N], got {words.dtype} {words.shape}")
  if words.shape[0] != num_words(length, bits, INTERLEAVE):
    raise ValueError(
      f"{length} codes of {bits} bits fill {num_words(length, bits, INTERLEAVE)} words,"
      f" got {words.shape}"
    )
  _check((length, words.shape[1]), scale, offset, bits)
  return _dequantized(words, scale, offset, length, bits, jnp.dtype(dtype), backend)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _dequantized(words, scale, offset, length, bits, dtype, backend):
  """Gradient: that of scale * codes + offset, in plain JAX."""
  static = {"length": length, "bits": bits, "dtype": dtype}
  if backend == "reference" or 0 in (length, words.shape[1]):
    return reference.dequantize_words(words, scale, offset, **static)
  if backend is not None:
    how = interpret(backend)
    return tpu.dequantize_words(words, scale, offset, **static, interpret=how)
  given = [a for a in (words, scale, offset) if a is not None]
  return dispatch(*given, **_forms("dequantize_words", **static))[0]


def _dequantized_fwd(words, scale, offset, *static):
  return _dequantized(words, scale, offset, *static), (words, scale, offset)


def _dequantized_bwd(length, bits, dtype, backend, residuals, dx):
  del backend
  words, scale, offset = residuals

  def plain(scale, offset):
    return reference.dequantize_words(words, scale, offset, length=length, bits=bits, dtype=dtype)

  return None, *jax.vjp(plain, scale, offset)[1](dx)


_dequantized.defvjp(_dequantized_fwd, _dequantized_bwd)


@functools.cache
def _forms(name, **static):
  def form(module):
    def run(x, scale, offset=None):
      return (getattr(module, name)(x, scale, offset, **static),)

    return run

  return {"tpu": form(tpu), "plain": form(reference)}


def _check(shape, scale, offset, bits):
  limits(bits, signed=offset is None)
  fits = len(shape) == 2 and scale.ndim == 2 and scale.shape[0] > 0
  if not fits or shape[0] % scale.shape[0] or scale.shape[1] not in (1, shape[1]):
    raise ValueError(f"scales {scale.shape} do not fit weights {shape}")
  if offset is not None and offset.shape != scale.shape:
    raise ValueError(f"offset {offset.shape} has not the shape {scale.shape} of the scale")
