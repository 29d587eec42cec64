"""Losses have the values that their formulas give, and balancing makes shares of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.training import losses as L
from jaxcodec.training.config import LearningRate


def test_waves_and_logits_give_the_formulas_values():
  rng = np.random.default_rng(0)
  x, y = rng.normal(0, 0.3, (2, 3, 50, 1)).astype(np.float32)

  @jax.jit
  def every(x, y):
    gans = [(gan.discriminator(x, y), gan.generator(y)) for gan in (L.HINGE, L.LEAST_SQUARES)]
    return L.l1(x, y), L.l2(x, y), L.relative_error(x, y), gans

  l1, l2, relative, ((hinge, hinge_g), (square, square_g)) = every(x, y)
  np.testing.assert_allclose(l1, np.abs(x - y).mean(), rtol=1e-5)
  np.testing.assert_allclose(l2, ((x - y) ** 2).mean(), rtol=1e-5)
  energy = (x**2).mean(axis=(1, 2)) + 1e-5
  wanted = np.log(((x - y) ** 2).mean(axis=(1, 2)) / energy + 0.01).mean()
  np.testing.assert_allclose(relative, wanted, rtol=1e-4)
  np.testing.assert_allclose(
    hinge, np.maximum(0, 1 - x).mean() + np.maximum(0, 1 + y).mean(), rtol=1e-5
  )
  np.testing.assert_allclose(hinge_g, -y.mean(), rtol=1e-5)
  np.testing.assert_allclose(square, ((1 - x) ** 2).mean() + (y**2).mean(), rtol=1e-5)
  np.testing.assert_allclose(square_g, ((1 - y) ** 2).mean(), rtol=1e-5)


def test_each_term_has_its_share_of_the_balanced_gradient_whatever_its_scale():
  rng = np.random.default_rng(1)
  directions = rng.normal(size=(2, 4, 30)).astype(np.float32)
  directions /= np.linalg.norm(directions, axis=2, keepdims=True)
  weights = {"a": 1.0, "b": 3.0}
  zero = jnp.zeros(())

  @jax.jit
  def run(scales):
    def step(state, scale):
      gradients = {"a": scale[0] * directions[0], "b": scale[1] * directions[1]}
      gradient, state = L.balance(state, gradients, weights, 0.9)
      return state, gradient

    return jax.lax.scan(step, L.BalancerState({"a": zero, "b": zero}, zero), scales)

  scales = np.stack([np.full(20, 1e3), np.full(20, 1e-3)], axis=1).astype(np.float32)
  state, gradients = run(scales)
  # Rows of unit length: the shares are a quarter and three quarters from the first step on.
  wanted = 0.25 * directions[0] + 0.75 * directions[1]
  np.testing.assert_allclose(gradients[0], wanted, rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(gradients[-1], wanted, rtol=1e-3, atol=1e-5)
  # The norms are those of encodec's balancer: sums of 0.9^k x over sums of 0.9^k.
  np.testing.assert_allclose(state.norms["a"] / state.weight, 1e3, rtol=1e-4)


def test_features_pull_the_decoded_side_alone():
  real, fake = jnp.asarray([[1.0, 2.0]]), jnp.asarray([[0.0, 4.0]])

  def loss(real, fake):
    sides = [[L.Judgement(side[:, 0], [side, 2 * side])] for side in (real, fake)]
    return L.feature_loss(*sides)[0]

  value, (by_real, by_fake) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(real, fake)
  assert float(value) == pytest.approx(1.5 + 3.0)
  np.testing.assert_array_equal(by_real, [[0, 0]])
  np.testing.assert_allclose(by_fake, [[-1.5, 1.5]])


def test_learning_rates_follow_their_shapes():
  steps = np.arange(0, 100)
  cosine = LearningRate(peak=2.0, warmup_steps=10, cosine=True).schedule(100)
  decayed = LearningRate(peak=2.0, decay=0.9).schedule(100)
  found = jax.jit(lambda s: (cosine(s), decayed(s)))(steps)
  wanted = 2 * np.minimum(1, (steps + 1) / 10) * (0.5 + 0.5 * np.cos(np.pi * steps / 100))
  np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(found[1], 2 * 0.9**steps, rtol=1e-3)


def test_spectra_are_compared_as_their_definition_has_it():
  rng = np.random.default_rng(2)
  x, y = rng.normal(0, 0.3, (2, 2, 1500, 1)).astype(np.float32)
  wanted = 0.0
  for window in (512, 128):
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    spectra = []
    for wave in (x, y):
      padded = np.pad(wave[..., 0], ((0, 0), (window // 2, window // 2)), "reflect")
      frames = np.lib.stride_tricks.sliding_window_view(padded, window, axis=1)[:, :: window // 4]
      spectra.append(np.abs(np.fft.rfft(frames * hann)))
    powers = [np.log10(np.maximum(spectrum, 1e-5) ** 2) for spectrum in spectra]
    wanted += np.abs(powers[0] - powers[1]).mean() + np.abs(spectra[0] - spectra[1]).mean()
  found = jax.jit(lambda x, y: L.stft_loss(x, y, (512, 128)))(x, y)
  np.testing.assert_allclose(found, wanted, rtol=1e-4)
