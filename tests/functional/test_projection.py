import jax
import numpy as np
import pytest

from jaxcodec import functional as F


def test_projected_vectors_have_the_mean_and_covariance_of_the_latents():
  rng = np.random.default_rng(0)
  source = rng.normal(size=(500, 7)) @ rng.normal(size=(7, 7)) + 3
  z = rng.normal(size=(4, 50, 3)) @ np.diag([0.1, 2, 5]) @ rng.normal(size=(3, 3)) - 1
  source, z = source.astype(np.float32), z.astype(np.float32)
  kernel, bias = jax.jit(F.matched_projection)(source, z)
  entries = source @ np.asarray(kernel) + bias
  rows = z.reshape(-1, 3)
  np.testing.assert_allclose(entries.mean(axis=0), rows.mean(axis=0), rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(np.cov(entries.T), np.cov(rows.T), rtol=0.01, atol=0.01)


def test_vectors_narrower_than_the_latents_are_refused():
  with pytest.raises(ValueError, match="2 features cannot fill latents of 3"):
    F.matched_projection(np.ones((5, 2), np.float32), np.ones((5, 3), np.float32))
