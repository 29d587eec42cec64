"""Blocks computed again on the way back: the same gradients from less memory."""

import dataclasses

import jax
import micro
import numpy as np
from random_params import draw_params

from jaxcodec.training.remat import rematerialized


def test_gradients_are_the_same_and_take_less_memory():
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

  found, sizes = [], []
  for on in (False, True):
    compiled = jax.jit(jax.grad(loss), static_argnums=1).lower(params, on).compile()
    found.append(compiled(params))
    sizes.append(compiled.memory_analysis().temp_size_in_bytes)
  for a, b in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  assert sizes[1] < 0.8 * sizes[0]
