"""Projections around a bottleneck: their products, and where one of frozen vectors starts."""

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_vjp
def thin_matmul(x, kernel):
  """x [..., A] @ kernel [A, B] in full float32, for A or B of a few; reverse mode only.

  The kernel's gradient is the product [few, N] @ [N, many], which a CPU does several times as
  quickly as the one that has the few behind; autodiff leaves the choice to XLA, which takes either.
  """
  return jnp.matmul(x, kernel, precision="highest")


def _thin_backward(saved, gradient):
  x, kernel = saved
  few, many = kernel.shape
  x, rows = x.reshape(-1, few), gradient.reshape(-1, many)
  if few <= many:
    of_kernel = jnp.matmul(x.T, rows, precision="highest")
  else:
    of_kernel = lax.optimization_barrier(jnp.matmul(rows.T, x, precision="highest")).T
  return jnp.matmul(gradient, kernel.T, precision="highest"), of_kernel


thin_matmul.defvjp(lambda x, kernel: (thin_matmul(x, kernel), (x, kernel)), _thin_backward)


def matched_projection(source, z):
  """`(kernel [S, D], bias [D])` that give vectors [K, S] the mean and covariance of latents [N, D].

  It keeps the D directions in which `source` varies most. Entries that lie where the latents do are
  all used from the first step on; a projection drawn at random leaves most of them where no latent
  comes, and what is never chosen pulls nothing.

  Raises:
    ValueError: if the vectors have fewer features than the latents.
  """
  features, wide = z.shape[-1], source.shape[-1]
  if wide < features:
    raise ValueError(f"vectors of {wide} features cannot fill latents of {features}")
  z = z.reshape(-1, features)
  mean, spread = source.mean(axis=0), _covariance(source)
  values, vectors = jnp.linalg.eigh(spread)  # Rising.
  white = vectors[:, -features:] * jax.lax.rsqrt(jnp.maximum(values[-features:], 1e-12))
  values, vectors = jnp.linalg.eigh(_covariance(z))
  root = (vectors * jnp.sqrt(jnp.maximum(values, 0))).T
  kernel = jnp.matmul(white, root, precision="highest")
  return kernel, z.mean(axis=0) - jnp.matmul(mean, kernel, precision="highest")


def _covariance(rows):
  centred = rows - rows.mean(axis=0)
  return jnp.matmul(centred.T, centred, precision="highest") / rows.shape[0]
