"""Legendre memory: a linear state space that holds the last `theta` steps of a signal.

The state m [order] has the coefficients of Legendre polynomials over that window:
m_t = A m_(t-1) + B u_t. A and B are fixed, so all steps at once are a convolution.
Source: Voelker et al., "Legendre Memory Units", 2019; Chilkuri and Eliasmith, "Parallelizing
Legendre Memory Unit Training", https://arxiv.org/abs/2102.11417.

Shapes: B rows, N steps, q order.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg


@functools.cache
def legendre_matrices(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
  """A [q, q] and B [q] for steps of one, in float64: in float32 the exponential loses digits.

  The continuous system, A_ij = (2i+1)/theta (-1 if i < j else (-1)^(i-j+1)) and
  B_i = (2i+1)/theta (-1)^i, its input held between steps: expm([A B; 0 0]).
  """
  i = np.arange(order)
  rate = (2 * i[:, None] + 1) / theta
  # Integers to negative powers do not go.
  signs = np.where(i[:, None] < i, -1.0, (-1.0) ** np.abs(i[:, None] - i + 1))
  joined = np.zeros((order + 1, order + 1))
  joined[:order, :order] = rate * signs
  joined[:order, order] = rate[:, 0] * (-1.0) ** i
  found = scipy.linalg.expm(joined)
  return found[:order, :order], found[:order, order]


@functools.cache
def impulse_response(order: int, theta: float, steps: int) -> np.ndarray:
  """The states after a one and then zeros, A^k B: float64 [steps, q]."""
  a, b = legendre_matrices(order, theta)
  states = [b]
  for _ in range(steps - 1):
    states.append(a @ states[-1])
  return np.stack(states)


def legendre_memory(u, order: int, theta: float):
  """All states of inputs u [B, N] at once: float32 [B, N, q].

  The transform is twice as long as the signal, or its end would come round to its start. On a TPU,
  whose compiler takes long for a transform, it is a product.
  """
  parts = functools.partial(_by_transform, order=order, theta=theta)
  whole = functools.partial(memory_by_product, order=order, theta=theta)
  return jax.lax.platform_dependent(u.astype(jnp.float32), tpu=whole, default=parts)


def _by_transform(u, order: int, theta: float):
  steps = u.shape[1]
  response = impulse_response(order, theta, steps)
  transformed = np.fft.rfft(response, 2 * steps, axis=0).astype(np.complex64)
  spectrum = jnp.fft.rfft(u, 2 * steps, axis=1)[..., None] * transformed
  return jnp.fft.irfft(spectrum, 2 * steps, axis=1)[:, :steps]


def memory_by_product(u, order: int, theta: float):
  """`legendre_memory` as the product of a Toeplitz matrix of u and the impulse response."""
  steps = u.shape[1]
  response = jnp.asarray(impulse_response(order, theta, steps), jnp.float32)
  back = np.arange(steps)[:, None] - np.arange(steps)
  delayed = jnp.where(back >= 0, u[:, np.maximum(back, 0)], 0)
  return jnp.einsum("bnk,kq->bnq", delayed, response, precision="highest")


def legendre_steps(u, state, theta: float):
  """Step after step: inputs u [B, N], the state [B, q] before -> `(states [B, N, q], state)`."""
  a, b = (jnp.asarray(part, jnp.float32) for part in legendre_matrices(state.shape[-1], theta))

  def step(state, u):
    state = jnp.dot(state, a.T, precision="highest") + u[:, None] * b
    return state, state

  state, states = jax.lax.scan(step, state, u.T.astype(jnp.float32))
  return jnp.moveaxis(states, 0, 1), state
