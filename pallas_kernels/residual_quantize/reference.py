"""Residual quantization in plain JAX, a stage at a time: the answer that every kernel must give."""

import jax
import jax.numpy as jnp

from pallas_kernels.dequantize import reference as dequantize
from pallas_kernels.nearest_code import nearest_code


def residual_quantize(
  z: jax.Array, codebooks: jax.Array, backend=None
) -> tuple[jax.Array, jax.Array]:
  """`(codes int32 [N, Q], z_q float32 [N, D])` of `z` [N, D] under `codebooks` [Q, K, D].

  `backend` is of `nearest_code`: "reference" for the definition.
  """

  def stage(residual, codebook):
    codes = nearest_code(residual, codebook, backend=backend)
    return residual - codebook[codes], codes

  codebooks = codebooks.astype(jnp.float32)
  # float32: in bfloat16 two near codes swap from one batch size to the next.
  _, codes = jax.lax.scan(stage, z.astype(jnp.float32), codebooks)
  # Not within the loop: whoever wants codes alone then pays for no sum.
  return codes.T, dequantize.dequantize(codes.T, codebooks)
