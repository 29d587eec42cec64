"""How a quantized vector hands its gradient to the vector that it stands for.

Each function is called as `through(z, z_q)` and returns the very bits of `z_q`.
"""

import jax
import jax.numpy as jnp


@jax.custom_jvp
def straight_through(z, z_q):
  """The very bits of `z_q` forward, the identity to `z` backward."""
  del z
  return z_q


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):
  return primals[1], tangents[0].astype(primals[1].dtype)


@jax.custom_jvp
def rotate(z, z_q):
  """`z_q` forward; backward the rotation and scaling that carry `z` [..., D] to `z_q`.

  (|q| / |z|) (I - 2 w w' + 2 q̂ ẑ') with w = (ẑ + q̂) / |ẑ + q̂|, held still. It is a reflection
  where z and q are opposite, and the identity where one of them is shorter than 1e-6: there is no
  direction. Source: Fifty et al., https://arxiv.org/abs/2410.06424, section 4.2.
  """
  del z
  return z_q


@rotate.defjvp
def _rotate_jvp(primals, tangents):
  z, z_q = (x.astype(jnp.float32) for x in primals)
  dz = tangents[0].astype(jnp.float32)

  def norm(x):
    return jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True))

  def dot(x, y):
    return jnp.sum(x * y, axis=-1, keepdims=True)

  long, wide = norm(z), norm(z_q)
  has_direction = jnp.minimum(long, wide) > 1e-6
  start, end = z / jnp.maximum(long, 1e-6), z_q / jnp.maximum(wide, 1e-6)
  middle = start + end
  middle = middle / jnp.maximum(norm(middle), 1e-6)
  turned = dz - 2 * dot(dz, middle) * middle + 2 * dot(dz, start) * end
  turned = turned * (wide / jnp.maximum(long, 1e-6))
  return primals[1], jnp.where(has_direction, turned, dz).astype(primals[1].dtype)


@jax.custom_jvp
def through_and_entries(z, z_q):
  """`z_q` forward; backward the identity to `z` and to `z_q`: the entries learn the task too."""
  del z
  return z_q


@through_and_entries.defjvp
def _through_and_entries_jvp(primals, tangents):
  return primals[1], tangents[0].astype(primals[1].dtype) + tangents[1]
