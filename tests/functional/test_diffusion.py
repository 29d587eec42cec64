"""Diffusion's equations, each as its paper has it, and a sampler that knows the answer."""

import jax
import numpy as np
import pytest

from jaxcodec import functional as F


def test_betas_are_linear_in_their_square_roots():
  shares = F.clean_shares(1000, 0.0015, 0.0195)
  betas = 1 - shares / np.concatenate([[1], shares[:-1]])
  np.testing.assert_allclose(betas[[0, -1]], [0.0015, 0.0195], rtol=1e-9)
  np.testing.assert_allclose(np.diff(np.sqrt(betas), 2), 0, atol=1e-9)


def test_steps_and_noise_of_the_sampler():
  shares = F.clean_shares(1000, 0.0015, 0.0195)
  schedule = F.ddim_schedule(shares, 50, 1.0)
  np.testing.assert_array_equal(schedule.steps, np.arange(981, 0, -20))
  np.testing.assert_array_equal(schedule.share[:-1], shares[schedule.steps[:-1]])
  np.testing.assert_array_equal(schedule.after, [*schedule.share[1:], shares[0]])
  # Equation 16 of DDIM; at eta 1 the variance is that of the posterior.
  posterior = (1 - schedule.after) / (1 - schedule.share) * (1 - schedule.share / schedule.after)
  np.testing.assert_allclose(schedule.sigma**2, posterior, rtol=1e-9)
  assert not F.ddim_schedule(shares, 50, 0.0).sigma.any()
  with pytest.raises(ValueError, match="501 steps"):
    F.ddim_schedule(shares, 501, 0.0)


def test_a_network_that_knows_the_sample_leads_the_sampler_to_it():
  rng = np.random.default_rng(0)
  clean, noise = rng.normal(size=(2, 3, 4)).astype(np.float32)
  shares = F.clean_shares(1000, 0.0015, 0.0195)

  @jax.jit
  def sampled(noise, noises):
    def v(x, t):
      share = np.asarray(shares, np.float32)
      a = jax.numpy.asarray(share)[t]
      # From x = sqrt(a) x_0 + sqrt(1 - a) e and v = sqrt(a) e - sqrt(1 - a) x_0.
      return (jax.numpy.sqrt(a) * x - clean) / jax.numpy.sqrt(1 - a)

    schedules = [F.ddim_schedule(shares, 20, eta) for eta in (0.0, 1.0)]
    return [F.ddim(v, noise, noises, schedule) for schedule in schedules]

  noises = rng.normal(size=(20, 3, 4)).astype(np.float32)
  for found in sampled(noise, noises):
    # What is left is the noise of a[0].
    assert np.abs(found - np.sqrt(shares[0]) * clean).max() < 4 * np.sqrt(1 - shares[0])


def test_noise_and_v_are_the_rotated_sample():
  rng = np.random.default_rng(1)
  x, noise = rng.normal(size=(2, 5, 7)).astype(np.float32)
  share = np.linspace(0.1, 0.9, 5, dtype=np.float32)
  noisy, v = map(np.asarray, jax.jit(F.diffused)(x, noise, share))
  a, b = np.sqrt(share)[:, None], np.sqrt(1 - share)[:, None]
  np.testing.assert_allclose(a * noisy - b * v, x, atol=1e-6)
  np.testing.assert_allclose(b * noisy + a * v, noise, atol=1e-6)


def test_guidance_goes_through_the_condition_and_beyond():
  assert F.guided(1.0, 3.0, 2.0) == 5.0
  assert F.guided(1.0, 3.0, 1.0) == 3.0
