"""Recurrent layers as pure functions."""

import jax
import jax.numpy as jnp

from jaxcodec.functional.conv import steady_conv


def lstm(x, input_kernel, recurrent_kernel, bias, state=None, *, steady: bool = False):
  """One LSTM layer: x [B, T, D] -> (y [B, T, H], state), gates in the order i, f, g, o.

  It has a gradient in reverse mode alone.

  Args:
    input_kernel: `[D, 4H]`.
    recurrent_kernel: `[H, 4H]`.
    bias: `[4H]`.
    state: `(h, c)`, each `[B, H]`; None for zeros.
    steady: whether, on a CPU, the last bit of y depends neither on T nor B (`conv.steady_conv`).
  """
  if state is None:
    zeros = jnp.zeros((x.shape[0], recurrent_kernel.shape[0]), x.dtype)
    state = (zeros, zeros)
  product = steady_conv(x, input_kernel[None]) if steady else x @ input_kernel
  gates = jnp.moveaxis(product + bias, 1, 0)
  if steady and len(x) == 1:
    # A row alone would be multiplied in another way.
    twice = jnp.repeat(gates, 2, axis=1), jax.tree.map(lambda s: jnp.repeat(s, 2, axis=0), state)
    y, state = _recur(twice[0], recurrent_kernel, twice[1])
    y, state = y[:, :1], jax.tree.map(lambda s: s[:1], state)
  else:
    y, state = _recur(gates, recurrent_kernel, state)
  return jnp.moveaxis(y, 0, 1), state


def bidirectional_lstm(x, forward, backward, length=None):
  """One layer in both directions: [B, T, D] -> [B, T, 2H], the forward half first.

  Args:
    forward, backward: `(input_kernel, recurrent_kernel, bias)`, as of `lstm`.
    length: `[B]`, steps of each row that exist; None for all.
  """
  ahead, _ = lstm(x, *forward)
  back, _ = lstm(_reversed(x, length), *backward)
  return jnp.concatenate([ahead, _reversed(back, length)], axis=-1)


def _reversed(x, length):
  """`x` [B, T, C] with the first `length` [B] steps of each row, None for all, backwards.

  Steps that do not exist stay where they are.
  """
  if length is None:
    return x[:, ::-1]
  step = jnp.arange(x.shape[1])
  place = jnp.where(step < length[:, None], length[:, None] - 1 - step, step)
  return jnp.take_along_axis(x, place[..., None], axis=1)


# Steps that pay for a kernel's transposition.
_LONG_ROW = 100


def _cell(c, gates):
  i, f, g, o = jnp.split(gates, 4, axis=-1)
  c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
  return jax.nn.sigmoid(o) * jnp.tanh(c), c


@jax.custom_vjp
def _recur(gates, kernel, state):
  """Gates [T, B, 4H] without their recurrent part -> (y [T, B, H], state)."""
  if gates.shape[1] == 1 and gates.shape[0] >= _LONG_ROW:
    return jax.lax.platform_dependent(gates, kernel, state, cpu=_recur_row, default=_recur_rows)
  return _recur_rows(gates, kernel, state)


def _recur_rows(gates, kernel, state):
  def step(state, gates):
    h, c = _cell(state[1], gates + state[0] @ kernel)
    return (h, c), h

  state, y = jax.lax.scan(step, state, gates)
  return y, state


def _recur_row(gates, kernel, state):
  """As `_recur_rows` of one row: a matrix by a vector, which reads its rows once through.

  Of a wide layer that is a third of the time less on two cores.
  """
  # XLA would undo a transposition that it sees.
  rows = jax.lax.optimization_barrier(kernel.T)

  def step(state, gates):
    h, c = _cell(state[1], gates + rows @ state[0])
    return (h, c), h

  state, y = jax.lax.scan(step, jax.tree.map(lambda s: s[0], state), gates[:, 0])
  return y[:, None], jax.tree.map(lambda s: s[None], state)


def _recur_fwd(gates, kernel, state):
  def step(state, gates):
    gates = gates + state[0] @ kernel
    after = _cell(state[1], gates)
    return after, (after[0], (*state, gates))

  state, (y, before) = jax.lax.scan(step, state, gates)
  return (y, state), (*before, kernel)


def _recur_bwd(residuals, cotangents):
  # The kernel's gradient is one product after the loop; within, every step would add to all of it.
  h, c, gates, kernel = residuals
  to_y, to_state = cotangents
  # By a transposed kernel a CPU takes up to three times as long, and XLA would undo a transposition
  # that it sees.
  rows = jax.lax.optimization_barrier(kernel.T)

  def step(to_state, given):
    to_y, c, gates = given
    to_c, to_gates = jax.vjp(_cell, c, gates)[1]((to_state[0] + to_y, to_state[1]))
    return (to_gates @ rows, to_c), to_gates

  to_state, to_gates = jax.lax.scan(step, to_state, (to_y, c, gates), reverse=True)
  return to_gates, jnp.einsum("tbh,tbg->hg", h, to_gates), to_state


_recur.defvjp(_recur_fwd, _recur_bwd)
