"""Blocks computed again on the way back: the same gradients, and less kept for them."""

import dataclasses

import jax
import micro
import numpy as np
import pytest
from random_params import draw_params

from jaxcodec.training.remat import rematerialized


@pytest.mark.slow
def test_gradients_are_the_same_and_less_is_kept_for_them():
  net = dataclasses.replace(micro.NET, num_filters=4, num_residual_layers=2, num_lstm_layers=1)
  codec = micro.CODEC.clone(net=net)
  x = np.random.default_rng(0).normal(0, 0.1, (2, 4096, 1)).astype(np.float32)
  params = draw_params(codec, x[:, :64])

  def loss(params, on):
    def run(codec):
      z, _ = codec.encoder(x)
      y, _ = codec.decoder(z)
      return (y**2).mean()

    with rematerialized(on):
      return codec.apply({"params": params}, method=run)

  found, kept = [], []
  for on in (False, True):
    found.append(jax.jit(jax.grad(loss), static_argnums=1)(params, on))
    # The function that goes back holds what was kept for it.
    backward = jax.eval_shape(lambda p, on=on: jax.vjp(lambda p: loss(p, on), p)[1], params)
    kept.append(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward)))
  for a, b in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  assert kept[1] < 0.8 * kept[0]
