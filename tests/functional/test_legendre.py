"""The Legendre memory: its matrices, its two forms, and what it remembers; and neurons."""

import functools
import pathlib

import jax
import numpy as np
import pytest
import scipy.signal

from jaxcodec import functional as F
from jaxcodec.functional.legendre import memory_by_product
from jaxcodec.functional.log_mel import kaldi_log_mel


def recorded(name):
  """What `recorded/make_lmuformer.py` recorded."""
  with np.load(pathlib.Path(__file__).parents[1] / "recorded" / "lmuformer.npz") as file:
    return file[name]


def test_matrices_are_those_of_the_definition():
  a, b = F.legendre_matrices(2, 4)
  np.testing.assert_allclose(a, [[0.717509, -0.148493], [0.445480, 0.420522]], atol=5e-7)
  np.testing.assert_allclose(b, [0.282491, -0.445480], atol=5e-7)


@pytest.mark.parametrize("order", [2, 16, 256])
def test_matrices_are_scipys(order):
  q = np.arange(order)[:, None]
  rate = (2 * q + 1) / 128
  continuous = rate * np.where(q < q.T, -1, (-1.0) ** np.abs(q - q.T + 1))
  system = continuous, rate * (-1.0) ** q, np.ones((1, order)), np.zeros((1, 1))
  want_a, want_b, *_ = scipy.signal.cont2discrete(system, 1.0, method="zoh")
  a, b = F.legendre_matrices(order, 128)
  np.testing.assert_allclose(a, want_a, atol=1e-10)
  np.testing.assert_allclose(b, want_b[:, 0], atol=1e-10)


def test_step_by_step_at_once_and_as_a_product_are_one():
  u = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)

  @jax.jit
  def run(u):
    states, last = F.legendre_steps(u, np.zeros((2, 32), np.float32), 20.0)
    first, between = F.legendre_steps(u[:, :20], np.zeros((2, 32), np.float32), 20.0)
    second, _ = F.legendre_steps(u[:, 20:], between, 20.0)
    whole = F.legendre_memory(u, 32, 20.0)
    return states, last, (first, second), whole, memory_by_product(u, 32, 20.0)

  states, last, parts, whole, product = run(u)
  a, b = F.legendre_matrices(32, 20.0)
  m, want = np.zeros((2, 32)), []
  for step in u.T.astype(np.float64):
    m = m @ a.T + step[:, None] * b
    want.append(m)
  want = np.stack(want, axis=1)
  # float32 against float64; states are about 1.
  for found in (states, whole, product, np.concatenate(parts, axis=1)):
    np.testing.assert_allclose(found, want, atol=2e-5)
  np.testing.assert_array_equal(last, states[:, -1])


def test_the_state_holds_the_window_as_legendre_polynomials():
  """Noise of a twentieth of the band, read back at five delays."""
  rng, (order, theta) = np.random.default_rng(1), (32, 64)
  spectrum = np.fft.rfft(rng.normal(size=1024))
  spectrum[int(0.05 * 1024) :] = 0
  u = np.fft.irfft(spectrum)
  u /= u.std()
  states = jax.jit(functools.partial(F.legendre_memory, order=order, theta=theta))(u[None])[0]
  for delay in (0, 10, 32, 50, 64):
    read = np.asarray(states) @ [
      scipy.special.eval_legendre(i, 2 * delay / theta - 1) for i in range(order)
    ]
    assert np.corrcoef(read[200:], u[200 - delay : 1024 - delay])[0, 1] > 0.99


def test_neurons_are_those_of_spikingjelly():
  from drawn_weights import draw_signal

  x = (4 * draw_signal(11, 40, 3, 4)).swapaxes(0, 1)
  weights = draw_signal(12, 40, 3, 4).swapaxes(0, 1)

  @jax.jit
  def run(x):
    def total(x):
      spikes, _ = F.leaky_integrate_and_fire(x, threshold=0.5)
      return (spikes * weights).sum(), spikes

    (_, spikes), gradient = jax.value_and_grad(total, has_aux=True)(x)
    first, between = F.leaky_integrate_and_fire(x[:, :15], threshold=0.5)
    second, _ = F.leaky_integrate_and_fire(x[:, 15:], between, threshold=0.5)
    return spikes, gradient, (first, second)

  spikes, gradient, parts = run(x)
  np.testing.assert_array_equal(np.swapaxes(spikes, 0, 1), recorded("neurons/spikes"))
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), spikes)
  np.testing.assert_allclose(np.swapaxes(gradient, 0, 1), recorded("neurons/gradient"), atol=1e-6)


def test_spectra_are_kaldis_whole_and_in_chunks():
  from drawn_weights import draw_signal

  x, want = draw_signal(13, 4000)[None], recorded("spectra/mel")

  @jax.jit
  def run(x):
    whole, _ = kaldi_log_mel(x, 128)
    parts, state = [], None
    for start, stop in ((0, 300), (300, 1500), (1500, 4000)):
      part, state = kaldi_log_mel(x[:, start:stop], 128, state)
      parts.append(part)
    return whole, parts

  whole, parts = run(x)
  assert whole.shape == (1, 23, 128)
  assert parts[0].shape[1] == 0
  np.testing.assert_allclose(whole[0], want, atol=2e-3)
  np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-4)
