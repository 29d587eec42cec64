"""Layers that are scanned over are the same layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.layers.transformer import WindowTransformer


@pytest.mark.slow
def test_scanned_layers_give_what_layers_one_by_one_give():
  fields = {"num_layers": 2, "num_heads": 1, "hidden": 2, "window": 2}
  plain, scanned = WindowTransformer(**fields), WindowTransformer(**fields, scan=True)
  x = np.random.default_rng(0).normal(size=(1, 3, 2)).astype(np.float32)

  # It runs once: optimizing it would take far longer.
  @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
  def both(key, x):
    stacked = scanned.init(key, x)["params"]
    single = {
      f"layer_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], stacked["layers"]) for i in range(2)
    }

    def run(params, module):
      # In two chunks, so that the state of the first is used.
      y, state = module.apply({"params": params}, x[:, :2])
      z, state = module.apply({"params": params}, x[:, 2:], state)
      return jnp.square(jnp.concatenate([y, z], axis=1)).sum(), (y, z, state)

    of_scanned = jax.value_and_grad(run, has_aux=True)(stacked, scanned)
    (loss, found), gradients = jax.value_and_grad(run, has_aux=True)(single, plain)
    gradients = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients.values())
    return stacked, of_scanned, ((loss, found), {"layers": gradients})

  params, found, wanted = both(jax.random.key(0), x)
  first = jax.tree.leaves(params["layers"]["qkv"])[0]
  assert first.shape == (2, 2, 6)
  # Each layer drew its own weights.
  assert float(np.abs(first[0] - first[1]).max()) > 0.1
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
  jax.tree.map(close, found, wanted)
