import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec import functional as F
from jaxcodec.bottlenecks import ResidualVQ


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def quantizer(q, k, d, seed=1):
  return ResidualVQ(q, k, d), {"params": {"codebooks": normal(q, k, d, seed=seed)}}


# One program a shape rather than one an operation.
@functools.partial(jax.jit, static_argnums=0)
def train(vq, variables, z, num_active=None):
  return vq.apply(variables, z, num_active=num_active)


@functools.partial(jax.jit, static_argnums=(0, 3))
def encode(vq, variables, z, count=None):
  return vq.apply(variables, z, count, method="encode")


@functools.partial(jax.jit, static_argnums=0)
def decode(vq, variables, codes):
  return vq.apply(variables, codes, method="decode")


@pytest.mark.parametrize(("q", "k", "d"), [(3, 8, 4), (1, 1, 4), (2, 8, 1)])
@pytest.mark.parametrize("shape", [(2, 7), (0, 7), (2, 0)])
def test_decode_of_encode_has_the_bits_of_training(shape, q, k, d):
  vq, variables = quantizer(q, k, d)
  z = normal(*shape, d)
  codes = encode(vq, variables, z)
  trained = train(vq, variables, z)
  assert codes.dtype == jnp.int32
  assert codes.shape == (*shape, q)
  np.testing.assert_array_equal(trained.codes, codes)
  decoded = np.asarray(decode(vq, variables, codes))
  np.testing.assert_array_equal(decoded.view(np.int32), np.asarray(trained.z).view(np.int32))


def test_fewer_codebooks_are_the_first_ones():
  vq, variables = quantizer(4, 8, 3)
  z = normal(2, 5, 3)
  codes = encode(vq, variables, z)
  few = encode(vq, variables, z, 2)
  np.testing.assert_array_equal(few, codes[..., :2])
  padded = jnp.full_like(codes, -1).at[..., :2].set(few)
  np.testing.assert_array_equal(decode(vq, variables, few), decode(vq, variables, padded))


def commitment_by_definition(z, codes, codebooks):
  """Mean over the active (row, stage) pairs of |residual - entry|^2 / D."""
  errors = []
  for row, row_codes in zip(z.astype(np.float64).reshape(-1, z.shape[-1]), codes, strict=True):
    for q, code in enumerate(row_codes):
      if code >= 0:
        row = row - codebooks[q, code]
        errors.append(np.mean(row**2))
  return np.mean(errors)


@pytest.mark.parametrize("num_active", [None, [3, 1], [2, 2]])
def test_commitment_loss_is_the_mean_over_active_stages(num_active):
  vq, variables = quantizer(3, 8, 4)
  z = normal(2, 5, 4)
  active = None if num_active is None else jnp.asarray(num_active)
  out = train(vq, variables, z, num_active=active)
  codes = np.asarray(out.codes)
  if num_active is not None:
    for row, count in enumerate(num_active):
      assert (codes[row, :, :count] >= 0).all()
      assert (codes[row, :, count:] == -1).all()
  want = commitment_by_definition(z, codes.reshape(-1, 3), variables["params"]["codebooks"])
  np.testing.assert_allclose(out.loss, want, rtol=1e-5)


def test_every_stage_pulls_the_encoder():
  """EnCodec's released code subtracts the straight-through output: only its first stage pulls."""
  vq, variables = quantizer(3, 8, 4)
  z = normal(2, 5, 4)
  codebooks, codes = variables["params"]["codebooks"], train(vq, variables, z).codes
  want, residual = np.zeros_like(z), z
  for q in range(3):
    residual = residual - codebooks[q][codes[..., q]]
    want += 2 * residual / (3 * z.size)
  got = jax.jit(jax.grad(lambda z: train(vq, variables, z).loss))(z)
  np.testing.assert_allclose(got, want, atol=1e-7)


def test_output_gradient_is_the_identity_and_codebooks_get_none():
  vq, variables = quantizer(3, 8, 4)
  z, weight = normal(2, 5, 4), normal(2, 5, 4, seed=2)

  def loss(variables, z):
    out = train(vq, variables, z)
    return jnp.vdot(weight, out.z) + out.loss

  to_params, to_z = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, z)
  assert not np.any(to_params["params"]["codebooks"])
  commitment = jax.jit(jax.grad(lambda z: train(vq, variables, z).loss))(z)
  np.testing.assert_allclose(to_z, weight + commitment, rtol=1e-6)


def test_statistics_are_of_the_codes_it_returns():
  vq, variables = quantizer(3, 8, 4)
  z = normal(2, 5, 4)
  out = train(vq, variables, z, num_active=jnp.asarray([3, 1]))
  codebooks = variables["params"]["codebooks"]
  want = F.residual_statistics(z.reshape(-1, 4), out.codes.reshape(-1, 3), codebooks)
  jax.tree.map(np.testing.assert_array_equal, out.statistics, want)
  assert out.statistics.counts.sum(axis=-1).tolist() == [10, 5, 5]
  assert out.metrics["codebook_use"] == np.mean(np.asarray(want.counts) > 0)
