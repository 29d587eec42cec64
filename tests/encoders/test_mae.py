"""The masked autoencoder's patches, what its loss is of, and where its predictor puts features."""

import types

import jax
import jax.numpy as jnp
import numpy as np
from random_params import draw_params

from jaxcodec.encoders import mae

CONFIG = mae.MaeConfig(
  frames=6, bands=4, patch=2, width=8, num_heads=2, hidden=8, num_layers=1, taps=1
)


def spectra():
  return np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)


def test_patches_lie_time_outer_and_so_do_their_values():
  x = np.arange(24, dtype=np.float32).reshape(1, 6, 4)
  wanted = [x[0, 2 * t : 2 * t + 2, 2 * f : 2 * f + 2].ravel() for t in range(3) for f in range(2)]
  np.testing.assert_array_equal(mae.patches(x, 2)[0], wanted)


def test_the_loss_is_the_squared_error_over_the_patches_that_were_hidden():
  shown = {}

  def visible(x, kept):
    shown["kept"] = np.asarray(kept)
    return None

  encoder = types.SimpleNamespace(config=CONFIG, visible=visible)
  # What it says is the number of a patch, whatever it sees.
  says = np.arange(6, dtype=np.float32)[:, None] * np.ones(4, np.float32)
  x = spectra()
  found = mae.masked_error(encoder, lambda y, order: jnp.asarray(says), x, jax.random.key(0), 0.4)
  each = np.square(says - np.asarray(mae.patches(x, 2))).mean(axis=-1)
  assert shown["kept"].shape == (3, 2)
  hidden = np.ones((3, 6), bool)
  np.put_along_axis(hidden, shown["kept"], False, axis=1)
  assert len({tuple(row) for row in hidden}) > 1
  np.testing.assert_allclose(found, each[hidden].mean(), rtol=1e-6)


def test_the_predictor_puts_features_at_their_patches_and_a_token_at_the_others():
  predictor = mae.MaePredictor(CONFIG, 8, 2, 0)
  order = np.stack([np.random.default_rng(i).permutation(6) for i in range(3)])
  y = np.random.default_rng(1).normal(size=(3, 3, 8)).astype(np.float32)
  params = draw_params(predictor, y, order)
  found = np.asarray(jax.jit(predictor.apply)({"params": params}, y, order))

  def definition(y, order):
    embedded = y @ params["embedding"]["kernel"] + params["embedding"]["bias"]
    rows = np.broadcast_to(params["mask_token"][0], (7, 8)).copy()
    rows[0] = embedded[0]
    for feature, patch in zip(embedded[1:], order, strict=False):
      rows[1 + patch] = feature
    rows = rows + mae.positions(CONFIG.grid, 8)
    centred = rows - rows.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(rows.var(axis=-1, keepdims=True) + 1e-6)
    normed = normed * params["norm"]["scale"] + params["norm"]["bias"]
    return (normed @ params["out"]["kernel"] + params["out"]["bias"])[1:]

  for row in range(3):
    np.testing.assert_allclose(found[row], definition(y[row], order[row]), atol=1e-5)


def test_what_is_hidden_changes_nothing_of_what_is_visible():
  encoder, x = mae.MaeEncoder(CONFIG), spectra()
  params = draw_params(encoder, x)
  kept = np.array([[0, 5], [2, 1], [3, 4]])

  @jax.jit
  def visible(x):
    return encoder.apply({"params": params}, x, kept, method="visible")

  other = x.copy()
  hidden = np.ones((3, 6), bool)
  np.put_along_axis(hidden, kept, False, axis=1)
  for row, patch in zip(*np.nonzero(hidden), strict=True):
    t, f = divmod(patch, 2)
    other[row, 2 * t : 2 * t + 2, 2 * f : 2 * f + 2] += 1
  found = np.asarray(visible(x))
  assert found.shape == (3, 3, 8)
  np.testing.assert_array_equal(visible(other), found)
  assert np.abs(np.asarray(visible(x + 1)) - found).max() > 1e-3
