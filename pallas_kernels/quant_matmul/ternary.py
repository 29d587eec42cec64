"""BitNet b1.58: activations of 8 bits a token times weights of -1, 0 and 1, an exact integer sum.

Products of such integers are summed in float32, which is exact below 2^24, so for up to 132,000
features: the result is the same in any order and on any device.
Source: Ma et al., https://arxiv.org/abs/2402.17764, section 2.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.affine_quant import pack_bits
from pallas_kernels.affine_quant.tiles import INTERLEAVE
from pallas_kernels.backend import Backend, interpret
from pallas_kernels.dispatch import dispatch
from pallas_kernels.quant_matmul import cpu, reference, tpu
from pallas_kernels.quant_matmul.op import check

# BitNet's floor of a scale, which keeps a row of zeros from dividing by it.
EPSILON = 1e-5
MOST_FEATURES = (1 << 24) // 127


def ternary_weights(w: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Packed signs and the scale of weights [K, N]: round(w / mean|w|), clipped to -1..1.

  Returns:
    int32 words [num_words(K, 2, 8), N] and float32 [1, 1].
  """
  scale = jnp.maximum(jnp.abs(w.astype(jnp.float32)).mean(keepdims=True), EPSILON)
  signs = jnp.clip(jnp.round(w / scale), -1, 1).astype(jnp.int8)
  return pack_bits(signs, 2, axis=0, interleave=INTERLEAVE), scale


def ternary_matmul(
  x: jax.Array, words: jax.Array, scale: jax.Array, *, backend: Backend | None = None
) -> jax.Array:
  """Product of `x` [*M, K], rounded to 8 bits a row, with scaled ternary weights [K, N].

  Args:
    x: any float type; a row's largest size becomes 127.
    words: int32 [num_words(K, 2, 8), N], see `ternary_weights`.
    scale: [1, 1], or [1, N].
    backend: as in `quant_matmul`.

  Returns:
    `[*M, N]` in the type of `x`. Gradient: as if nothing had been rounded; to `x` and the scale.

  Raises:
    ValueError: if shapes do not fit, or K is above 132,104.
  """
  check(x, words, scale, None, 2)
  if scale.shape[0] != 1 or x.shape[-1] > MOST_FEATURES:
    raise ValueError(
      f"ternary weights have one scale a column and at most {MOST_FEATURES} features,"
      f" got scales {scale.shape} and x {x.shape}"
    )
  rows = x.reshape(-1, x.shape[-1]) if x.size else jnp.zeros((0, x.shape[-1]), x.dtype)
  rows = rows.astype(jnp.float32)
  size = jnp.abs(jax.lax.stop_gradient(rows)).max(axis=1, keepdims=True, initial=0)
  step = jnp.maximum(size, EPSILON) / 127
  steps = rows / step
  steps = steps + jax.lax.stop_gradient(jnp.clip(jnp.round(steps), -128, 127) - steps)
  y = _sums(steps, words, backend) * step * scale
  return y.astype(x.dtype).reshape(*x.shape[:-1], words.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sums(steps, words, backend):
  """float32 [M, N] of whole numbers [M, K] times signs. Gradient: that of the plain product."""
  if 0 in (*steps.shape, words.shape[1]) or backend == "reference":
    return _plain(steps, words)[0]
  if backend is None:
    return dispatch(steps, words, tpu=_kernel, cpu=_by_tile, plain=_plain)[0]
  return _kernel(steps, words, interpret(backend))[0]


def _plain(steps, words):
  one = jnp.ones((1, 1), jnp.float32)
  return (reference.quant_matmul(steps, words, one, None, bits=2),)


def _by_tile(steps, words):
  return (cpu.quant_matmul(steps, words, jnp.ones((1, 1), jnp.float32), None, bits=2),)


def _kernel(steps, words, interpret=False):
  # Whole numbers to 256 are exact in bfloat16.
  one, steps = jnp.ones((1, 1), jnp.float32), steps.astype(jnp.bfloat16)
  return (tpu.quant_matmul(steps, words, one, None, bits=2, interpret=interpret),)


def _sums_fwd(steps, words, backend):
  return _sums(steps, words, backend), (steps, words)


def _sums_bwd(backend, residuals, dy):
  del backend
  steps, words = residuals
  return *jax.vjp(lambda steps: _plain(steps, words)[0], steps)[1](dy), None


_sums.defvjp(_sums_fwd, _sums_bwd)
