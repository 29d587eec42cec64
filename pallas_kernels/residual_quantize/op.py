"""All stages of residual vector quantization: stage q codes what stages 0..q-1 left over.

Numerics: float32 whatever the inputs are; ties go to the lowest index.
Source: SoundStream, https://arxiv.org/abs/2107.03312, section III-C.
"""

import functools
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from pallas_kernels.dequantize import reference as dequantize
from pallas_kernels.dequantize.tpu import fits
from pallas_kernels.dispatch import dispatch
from pallas_kernels.residual_quantize import reference, tpu

Backend = Literal["reference", "tpu", "interpret"]


def residual_quantize(
  z: jax.Array, codebooks: jax.Array, *, backend: Backend | None = None
) -> tuple[jax.Array, jax.Array]:
  """Codes of each vector and the sum of the entries they name.

  Args:
    z: `[*N, D]` vectors, any float type.
    codebooks: `[Q, K, D]` entries.
    backend: None picks one by platform: a stage at a time by `nearest_code`, and on a TPU all
      stages in one kernel where a stage's codebook fits on the chip; "interpret" is that kernel on
      any platform, for tests.

  Returns:
    `(codes int32 [*N, Q], z_q float32 [*N, D])`. The gradient of `z_q` is the identity to `z`
    (straight-through), and the cotangent of each row to each entry that the row used. A row with a
    NaN gets code 0 in every stage.

  Raises:
    ValueError: if the shapes do not fit, or `backend` is none of these or takes no codebooks of
      this shape.
  """
  if codebooks.ndim != 3 or 0 in codebooks.shape:
    raise ValueError(f"codebooks must be [Q, K, D], none of them 0, got shape {codebooks.shape}")
  if z.ndim == 0:
    raise ValueError(f"z must be [*N, D], got shape () for codebooks {codebooks.shape}")
  if z.shape[-1] != codebooks.shape[-1]:
    raise ValueError(f"z has {z.shape[-1]} features, codebooks have {codebooks.shape[-1]}")
  if backend not in (None, *get_args(Backend)):
    raise ValueError(f"backend must be None or one of {get_args(Backend)}, got {backend!r}")
  if backend in ("tpu", "interpret") and not fits(codebooks):
    raise ValueError(f"codebooks {codebooks.shape} are none that the kernel takes")
  rows = z.reshape(math.prod(z.shape[:-1]), z.shape[-1])
  codes, total = _quantize(rows, codebooks, backend)
  return codes.reshape(*z.shape[:-1], codebooks.shape[0]), total.reshape(z.shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
@functools.partial(jax.jit, static_argnums=(2,))
def _quantize(z, codebooks, backend):
  """Gradient: identity to `z`, the cotangent of each row to each entry that the row used."""
  if backend == "reference":
    return reference.residual_quantize(z, codebooks, backend)
  if backend is not None:
    return tpu.residual_quantize(z, codebooks, interpret=backend == "interpret")
  kernel = tpu.residual_quantize if fits(codebooks) else None
  return dispatch(z, codebooks, plain=reference.residual_quantize, tpu=kernel)


def _quantize_jvp(backend, primals, tangents):
  codes, total = _quantize(*primals, backend)
  dz, dcodebooks = tangents
  change = jnp.float32(0)
  if not isinstance(dz, SymbolicZero):
    change = change + dz
  if not isinstance(dcodebooks, SymbolicZero):
    # float32 before the sum: its transpose adds up in the type that it is given.
    change = change + dequantize.by_stage(codes, dcodebooks.astype(jnp.float32))
  return (codes, total), (np.zeros(codes.shape, jax.dtypes.float0), change)


# So that constant codebooks cost no sum of zeros.
_quantize.defjvp(_quantize_jvp, symbolic_zeros=True)
