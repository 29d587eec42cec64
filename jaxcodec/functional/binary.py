"""Quantization to signs: lookup-free, binary spherical, and residual.

Shapes: z [..., D], one bit a number, the first the highest; codes int32 [...]. Zero counts as
negative, the lower of two codes as near.
"""

import jax
import jax.numpy as jnp
import numpy as np

_GROUP = 10


def sign_encode(z):
  """Codes of the signs of z [..., D]: int32 [...]."""
  weights = np.left_shift(1, np.arange(z.shape[-1] - 1, -1, -1)).astype(np.int32)
  return jnp.sum((z > 0) * weights, axis=-1).astype(jnp.int32)


def sign_decode(codes, bits: int, scale: float = 1.0):
  """Corners `scale` * {-1, 1}^bits of codes [...]: float32 [..., bits]; zeros for -1."""
  shifts = np.arange(bits - 1, -1, -1, dtype=np.int32)
  ones = jnp.right_shift(jnp.maximum(codes, 0)[..., None], shifts) & 1
  values = jnp.where(ones == 1, np.float32(scale), np.float32(-scale))
  return jnp.where((codes >= 0)[..., None], values, 0)


def residual_sign_encode(z, stages: int):
  """Codes [..., Q] of z [..., D]: stage q has corners of size 2^-q."""

  def stage(residual, scale):
    codes = sign_encode(residual)
    return residual - jnp.where(residual > 0, scale, -scale), codes

  _, codes = jax.lax.scan(stage, z, np.exp2(-np.arange(stages, dtype=np.float32)))
  return jnp.moveaxis(codes, 0, -1)


def residual_sign_decode(codes, bits: int):
  """Sum over the first stages of codes [..., Q]: [..., bits]; a code of -1 adds nothing."""
  corners = sign_decode(codes, bits)
  scales = np.exp2(-np.arange(codes.shape[-1], dtype=np.float32))
  # Sums of such powers of two are exact.
  return jnp.sum(corners * scales[:, None], axis=-2)


def sign_entropies(z, valid, scale: float, inverse_temperature: float):
  """`(per_row, of_batch)`: entropies in nats of the codes as random numbers.

  p(code | z) is the softmax over corners c of 2 t z.c, so each bit is 1 with probability
  sigmoid(4 t scale z), alone. The first is the mean over rows of the entropy of p; the second the
  entropy of the mean of p, exact for up to 10 bits and else the sum over runs of at most 10 bits,
  which bounds it from above. Source: LFQ, https://arxiv.org/abs/2310.05737, equation 5; in groups,
  BSQ, https://arxiv.org/abs/2406.07548, section 3.2.

  Args:
    z: [..., D].
    valid: bool [...], the rows that count.
    scale: the size of a corner's coordinates.
    inverse_temperature: t.
  """
  z, valid = z.reshape(-1, z.shape[-1]), valid.reshape(-1)
  number = jnp.maximum(valid.sum(), 1)
  logits = 4 * inverse_temperature * scale * z
  # With p = sigmoid(x): H = softplus(x) - x p, finite and smooth for every x.
  one = jax.nn.sigmoid(logits)
  single = (jax.nn.softplus(logits) - logits * one).sum(axis=-1)
  per_row = jnp.where(valid, single, 0).sum() / number
  groups = -(-z.shape[-1] // _GROUP)
  of_batch = jnp.zeros(())
  for part in np.array_split(np.arange(z.shape[-1]), groups):
    joint = valid[:, None].astype(z.dtype)
    *rest, last = part
    for bit in rest:
      joint = joint[:, :, None] * _both(one[:, bit])[:, None]
      joint = joint.reshape(z.shape[0], joint.shape[1] * 2)
    # The last bit's sum over rows is a product of matrices: half the memory.
    mean = jnp.matmul(joint.T, _both(one[:, last]), precision="highest").reshape(-1) / number
    of_batch -= jnp.sum(mean * jnp.log(jnp.maximum(mean, 1e-30)))
  return per_row, of_batch


def _both(one):
  """[N] probabilities of a one to [N, 2], zero first."""
  return jnp.stack([1 - one, one], axis=-1)
