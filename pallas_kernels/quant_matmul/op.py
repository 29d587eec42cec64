"""x @ w for weights of 2 to 8 bits, unpacked and dequantized on chip.

On TPU the weights are read once, as their codes, and never are in memory as floats; on one CPU they
are floats a tile at a time. Elsewhere XLA dequantizes and multiplies.
Numerics: weights are dequantized in float32, rounded to the type of `x`, and sums are float32.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import checks
from pallas_kernels.affine_quant.op import limits
from pallas_kernels.affine_quant.pack import num_words
from pallas_kernels.affine_quant.tiles import INTERLEAVE
from pallas_kernels.backend import GPU, WithGpu, interpret
from pallas_kernels.dispatch import dispatch
from pallas_kernels.quant_matmul import cpu, gpu, reference, tpu


def quant_matmul(
  x: jax.Array,
  words: jax.Array,
  scale: jax.Array,
  offset: jax.Array | None = None,
  *,
  bits: int,
  backend: WithGpu | None = None,
) -> jax.Array:
  """Product of `x` with quantized weights [K, N].

  The codes are packed along K: `pack_bits(codes, bits, axis=0, interleave=8)`.

  Args:
    x: `[*M, K]`, float32 or bfloat16.
    words: int32 `[num_words(K, bits, 8), N]`.
    scale: `[K / group, N]`, or 1 for N; one group of K is a channel's, [1, 1] the tensor's.
    offset: as scale; None for signed codes.
    bits: 2 to 8; 1, too, of codes with an offset.
    backend: None picks one for each platform, see `pallas_kernels.dispatch`.

  Returns:
    `[*M, N]` in the type of `x`. Gradients go to `x`, scale and offset.

  Raises:
    ValueError: if shapes do not fit, or `x` is not of a float type.
  """
  check(x, words, scale, offset, bits)
  rows = x.reshape(-1, x.shape[-1]) if x.size else jnp.zeros((0, x.shape[-1]), x.dtype)
  y = _matmul(rows, words, scale, offset, bits, backend)
  return y.astype(x.dtype).reshape(*x.shape[:-1], words.shape[1])


def check(x, words, scale, offset, bits) -> None:
  """Raises ValueError, naming shapes, if the parts do not make a product."""
  limits(bits, signed=offset is None)
  checks.floating(x=x)
  if x.ndim < 1 or words.ndim != 2 or words.dtype != jnp.int32:
    raise ValueError(f"x must be [*M, K], words int32 [., N], got {x.shape}, {words.shape}")
  if words.shape[0] != num_words(x.shape[-1], bits, INTERLEAVE):
    raise ValueError(
      f"{x.shape[-1]} features of {bits} bits fill {num_words(x.shape[-1], bits, INTERLEAVE)}"
      f" words, got {words.shape}"
    )
  shape = x.shape[-1], words.shape[1]
  groups_fit = scale.ndim == 2 and scale.shape[0] and shape[0] % scale.shape[0] == 0
  if not groups_fit or scale.shape[1] not in (1, shape[1]):
    raise ValueError(f"scales {scale.shape} do not fit weights {shape}")
  if offset is not None and offset.shape != scale.shape:
    raise ValueError(f"offset {offset.shape} has not the shape {scale.shape} of the scale")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _matmul(x, words, scale, offset, bits, backend):
  """float32 product. Gradient: that of dequantizing and multiplying, in plain JAX."""
  if 0 in (*x.shape, words.shape[1]) or backend == "reference":
    return reference.quant_matmul(x, words, scale, offset, bits=bits)
  if backend in GPU:
    return gpu.quant_matmul(x, words, scale, offset, bits=bits, interpret=GPU[backend])
  if backend is not None:
    how = interpret(backend, WithGpu)
    return tpu.quant_matmul(x, words, scale, offset, bits=bits, interpret=how)
  arrays = (x, words, scale) if offset is None else (x, words, scale, offset)
  forms = _forms(bits)
  return dispatch(*arrays, **(forms if len(x) <= gpu.MOST_ROWS else forms | {"gpu": None}))[0]


@functools.cache
def _forms(bits):
  def form(module):
    def run(x, words, scale, offset=None):
      return (module.quant_matmul(x, words, scale, offset, bits=bits),)

    return run

  return {"tpu": form(tpu), "gpu": form(gpu), "cpu": form(cpu), "plain": form(reference)}


def _matmul_fwd(x, words, scale, offset, bits, backend):
  return _matmul(x, words, scale, offset, bits, backend), (x, words, scale, offset)


def _matmul_bwd(bits, backend, residuals, dy):
  del backend
  x, words, scale, offset = residuals

  def product(x, scale, offset):
    return reference.quant_matmul(x, words, scale, offset, bits=bits)

  dx, dscale, doffset = jax.vjp(product, x, scale, offset)[1](dy)
  return dx, None, dscale, doffset


_matmul.defvjp(_matmul_fwd, _matmul_bwd)
