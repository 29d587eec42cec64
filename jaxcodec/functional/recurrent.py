"""Recurrent layers as pure functions."""

import jax
import jax.numpy as jnp


def lstm(x, input_kernel, recurrent_kernel, bias, state=None):
  """One LSTM layer: x [B, T, D] -> (y [B, T, H], state), gates in the order i, f, g, o.

  Args:
    input_kernel: `[D, 4H]`.
    recurrent_kernel: `[H, 4H]`.
    bias: `[4H]`.
    state: `(h, c)`, each `[B, H]`; None for zeros.
  """
  if state is None:
    zeros = jnp.zeros((x.shape[0], recurrent_kernel.shape[0]), x.dtype)
    state = (zeros, zeros)

  def step(state, gates):
    h, c = state
    i, f, g, o = jnp.split(gates + h @ recurrent_kernel, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h

  gates = jnp.moveaxis(x @ input_kernel + bias, 1, 0)
  state, y = jax.lax.scan(step, state, gates)
  return jnp.moveaxis(y, 0, 1), state
