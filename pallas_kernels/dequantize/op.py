"""Sum of codebook rows over stages: z_q = sum_q codebooks[q, codes[q]].

Numerics: summed in float32 in the order of the stages; the gradient too is summed in float32.
"""

import functools
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import checks
from pallas_kernels.dequantize import reference, tpu
from pallas_kernels.dispatch import dispatch

Backend = Literal["reference", "tpu", "interpret"]


def dequantize(
  codes: jax.Array, codebooks: jax.Array, *, backend: Backend | None = None
) -> jax.Array:
  """The entries that the codes name, added over stages; each cotangent goes to the entries it used.

  Args:
    codes: integers `[*N, Q]`. One outside 0..K - 1, such as the -1 of a stage left out, adds zeros.
    codebooks: `[Q, K, D]` of floats.
    backend: None picks one by platform: gather, and on a TPU products with one-hot rows where a
      stage's codebook fits on the chip; "interpret" is that kernel on any platform, for tests.

  Returns:
    `[*N, D]` of the codebooks' type.

  Raises:
    ValueError: if the shapes do not fit, the codes are no integers, or `backend` is none of
      these or takes no codebooks of this shape.
  """
  if codebooks.ndim != 3 or 0 in codebooks.shape:
    raise ValueError(f"codebooks must be [Q, K, D], none of them 0, got shape {codebooks.shape}")
  if codes.ndim < 1 or codes.shape[-1] != codebooks.shape[0]:
    raise ValueError(f"codes {codes.shape} for {codebooks.shape[0]} codebooks {codebooks.shape}")
  checks.integers(codes=codes)
  if backend not in (None, *get_args(Backend)):
    raise ValueError(f"backend must be None or one of {get_args(Backend)}, got {backend!r}")
  if backend in ("tpu", "interpret") and not tpu.fits(codebooks):
    raise ValueError(f"codebooks {codebooks.shape} are none that the kernel takes")
  rows = codes.astype(np.int32).reshape(math.prod(codes.shape[:-1]), codes.shape[-1])
  return _sum(rows, codebooks, backend).reshape(*codes.shape[:-1], codebooks.shape[-1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
@functools.partial(jax.jit, static_argnums=(2,))
def _sum(codes, codebooks, backend):
  """Linear in the entries. Gradient: the cotangent of each row, to each entry that it used."""
  if backend == "reference":
    return reference.dequantize(codes, codebooks)
  if backend is not None:
    return tpu.dequantize(codes, codebooks, interpret=backend == "interpret")
  (total,) = dispatch(
    codes,
    codebooks,
    plain=lambda *arrays: (reference.dequantize(*arrays),),
    tpu=(lambda *arrays: (tpu.dequantize(*arrays),)) if tpu.fits(codebooks) else None,
  )
  return total


@_sum.defjvp
def _sum_jvp(backend, primals, tangents):
  codes, codebooks = primals
  # float32 before the sum: its transpose adds up in the type that it is given.
  change = reference.by_stage(codes, tangents[1].astype(jnp.float32))
  return _sum(codes, codebooks, backend), change.astype(codebooks.dtype)
