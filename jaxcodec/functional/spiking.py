"""Neurons that give zeros and ones.

Source: spikingjelly's LIFNode and its Sigmoid surrogate, as LMUFormer uses them,
https://arxiv.org/abs/2402.04882.
"""

import jax
import jax.numpy as jnp

_SHARPNESS = 4.0


@jax.custom_jvp
def spike(x):
  """1 where x >= 0, else 0. Gradient: that of sigmoid(4 x)."""
  return (x >= 0).astype(x.dtype)


@spike.defjvp
def _spike_jvp(primals, tangents):
  (x,), (change,) = primals, tangents
  s = jax.nn.sigmoid(_SHARPNESS * x)
  return spike(x), change * _SHARPNESS * s * (1 - s)


def leaky_integrate_and_fire(x, state=None, *, tau: float = 2.0, threshold: float = 1.0):
  """Spikes of currents x [B, N, C] along N: `(spikes [B, N, C], potentials [B, C])`.

  v += (x - v) / tau; a spike where v reaches the threshold sets v to 0. That reset carries no
  gradient.

  Args:
    state: the potentials before; None for zeros.
  """
  if state is None:
    state = jnp.zeros((x.shape[0], x.shape[2]), x.dtype)

  def step(v, x):
    v = v + (x - v) / tau
    fired = spike(v - threshold)
    return v * (1 - jax.lax.stop_gradient(fired)), fired

  state, spikes = jax.lax.scan(step, state, jnp.moveaxis(x, 1, 0))
  return jnp.moveaxis(spikes, 0, 1), state
