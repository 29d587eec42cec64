"""Picture codecs learn: noise for rounding, gradients that reach every weight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recorded_pictures import read

from jaxcodec import functional as F

ROWS, COLUMNS = np.mgrid[:64, :64]
WAVES = [np.sin(ROWS / 7), np.cos(COLUMNS / 9), np.sin((ROWS + COLUMNS) / 11)]
X = 0.7 * np.stack(WAVES, axis=-1)[None].astype(np.float32)


@pytest.mark.slow  # Its gradient takes long to compile.
def test_rate_and_distortion_fall_and_every_weight_has_a_gradient():
  module, params = read("checkerboard")

  def loss(params, key):
    coded = module.apply({"params": params}, X, key)
    bits = sum(F.information_bits(part).sum() for part in coded.likelihoods.values())
    error = jnp.mean((coded.x_hat - X) ** 2)
    return bits / X[..., 0].size + 100 * error + coded.aux_loss / 100

  optimizer = optax.adam(1e-2)

  @jax.jit
  def step(params, state, key):
    value, gradient = jax.value_and_grad(loss)(params, key)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value, gradient

  state, values = optimizer.init(params), []
  for number in range(12):
    params, state, value, gradient = step(params, state, jax.random.key(number))
    values.append(float(value))
    if not number:
      for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), name
        assert np.abs(leaf).max() > 0, name
  assert np.mean(values[-3:]) < 0.7 * np.mean(values[:3])
