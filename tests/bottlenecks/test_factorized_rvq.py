import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.bottlenecks import FactorizedRVQ

VQ = FactorizedRVQ(num_codebooks=3, codebook_size=16, features=6, codebook_features=4)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


PARAMS = {
  "in_kernel": normal(3, 6, 4, seed=1) / 6**0.5,
  "in_bias": 0.1 * normal(3, 4, seed=2),
  "codebooks": normal(3, 16, 4, seed=3),
  "out_kernel": normal(3, 4, 6, seed=4) / 4,
  "out_bias": 0.1 * normal(3, 6, seed=5),
}
Z = normal(2, 5, 6)


@jax.jit
def train(params, z, num_active=None):
  return VQ.apply({"params": params}, z, num_active=num_active)


@functools.partial(jax.jit, static_argnums=1)
def encode(z, count=None):
  return VQ.apply({"params": PARAMS}, z, count, method="encode")


@jax.jit
def decode(codes):
  return VQ.apply({"params": PARAMS}, codes, method="decode")


def test_its_parameters_are_those_that_init_makes():
  made = jax.eval_shape(VQ.init, jax.random.key(0), Z)["params"]
  assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, PARAMS)
  assert VQ.codebook_sizes == (16, 16, 16)


@pytest.mark.parametrize("shape", [(2, 7), (0, 7), (2, 0)])
def test_decode_of_encode_has_the_bits_of_training(shape):
  z = normal(*shape, 6)
  codes = encode(z)
  out = train(PARAMS, z)
  assert codes.shape == (*shape, 3)
  np.testing.assert_array_equal(out.codes, codes)
  decoded = np.asarray(decode(codes))
  np.testing.assert_array_equal(decoded.view(np.int32), np.asarray(out.z).view(np.int32))


def test_fewer_codebooks_are_the_first_ones():
  codes = encode(Z)
  np.testing.assert_array_equal(encode(Z, 2), codes[..., :2])


@pytest.mark.parametrize("num_active", [None, [3, 1]])
def test_losses_are_sums_over_stages_of_means_over_the_batch(num_active):
  out = train(PARAMS, Z, None if num_active is None else jnp.asarray(num_active))
  want, codes = 0.0, np.asarray(out.codes)
  for row, count in enumerate(num_active or [3, 3]):
    assert (codes[row, :, :count] >= 0).all()
    assert (codes[row, :, count:] == -1).all()
    residual = Z[row].astype(np.float64)
    for q in range(count):
      entries = PARAMS["codebooks"][q][codes[row, :, q]]
      low = residual @ PARAMS["in_kernel"][q] + PARAMS["in_bias"][q]
      want += np.mean((low - entries) ** 2) / 2
      residual = residual - (entries @ PARAMS["out_kernel"][q] + PARAMS["out_bias"][q])
  np.testing.assert_allclose(out.loss, want, rtol=1e-5)
  np.testing.assert_allclose(out.codebook_loss, want, rtol=1e-5)
  assert out.statistics is None
  first = decode(codes[1:, :, :1])
  if num_active:
    np.testing.assert_allclose(out.z[1:], first, atol=1e-6)
  used = {(q, code) for q in range(3) for code in codes[..., q].flat if code >= 0}
  np.testing.assert_allclose(out.metrics["codebook_use"], len(used) / 48, rtol=1e-6)


def test_the_output_passes_the_gradient_of_its_projections():
  """With entries as their own projections z_q is linear in z: I minus the stages' remainders."""
  weight = normal(2, 5, 6, seed=6)
  gradient = jax.jit(jax.grad(lambda z, p: jnp.vdot(weight, train(p, z).z), argnums=(0, 1)))
  to_z, to_params = gradient(Z, PARAMS)
  left = np.eye(6)
  for q in range(3):
    left = left @ (np.eye(6) - PARAMS["in_kernel"][q] @ PARAMS["out_kernel"][q])
  np.testing.assert_allclose(to_z, weight @ (np.eye(6) - left).T, atol=1e-5)
  assert not np.any(to_params["codebooks"])
  assert all(np.any(to_params[name]) for name in PARAMS if name != "codebooks")


def test_one_loss_moves_the_codebooks_and_the_other_what_comes_before():
  """A later stage's loss reaches the projections of the stages before it, through the residual."""
  commitment = jax.jit(jax.grad(lambda p, z: train(p, z).loss, argnums=(0, 1)))
  params, to_z = commitment(PARAMS, Z)
  assert not np.any(params["codebooks"])
  assert np.any(to_z)
  assert np.any(params["in_kernel"][0])
  assert np.any(params["out_kernel"][0])
  assert not np.any(params["out_kernel"][2])
  codes = np.asarray(train(PARAMS, Z).codes)
  params = jax.jit(jax.grad(lambda p: train(p, Z).codebook_loss))(PARAMS)
  assert not any(np.any(params[name]) for name in PARAMS if name != "codebooks")
  low = Z @ PARAMS["in_kernel"][0] + PARAMS["in_bias"][0]
  want = np.zeros((16, 4))
  np.add.at(want, codes[..., 0], 2 * (PARAMS["codebooks"][0][codes[..., 0]] - low) / low.size)
  np.testing.assert_allclose(params["codebooks"][0], want, atol=1e-6)
