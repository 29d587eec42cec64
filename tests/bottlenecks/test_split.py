import functools

import jax
import numpy as np
import pytest

from jaxcodec import functional as F
from jaxcodec.bottlenecks.split import SplitRVQ

MODULE = SplitRVQ(num_codebooks=4, codebook_size=8, features=3, dimension=5)


@jax.jit
def train(variables, z, num_active=None):
  return MODULE.apply(variables, z, num_active=num_active)


@functools.partial(jax.jit, static_argnames="count")
def encode(variables, z, count=None):
  return MODULE.apply(variables, z, count, method="encode")


@jax.jit
def decode(variables, codes):
  return MODULE.apply(variables, codes, method="decode")


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def variables():
  return jax.jit(MODULE.init)(jax.random.key(0), normal(1, 2, 5))


def test_both_parts_code_the_latent_itself(variables):
  z, params = normal(2, 6, 5), variables["params"]
  codes = encode(variables, z)
  for part, columns in (("semantic", slice(0, 1)), ("acoustic", slice(1, 4))):
    inner = z @ params[f"{part}_in"]["kernel"]
    want = F.residual_encode(inner, params[part]["codebooks"])
    np.testing.assert_array_equal(codes[..., columns], want)
  parts = [
    F.residual_decode(codes[..., columns], params[part]["codebooks"])
    @ params[f"{part}_out"]["kernel"]
    for part, columns in (("semantic", slice(0, 1)), ("acoustic", slice(1, 4)))
  ]
  got = decode(variables, codes)
  np.testing.assert_allclose(got, parts[0] + parts[1], atol=1e-6)


def test_decoded_codes_are_the_quantized_latents_to_the_bit(variables):
  z = normal(2, 6, 5)
  quantized = train(variables, z)
  codes = encode(variables, z)
  np.testing.assert_array_equal(quantized.codes, codes)
  np.testing.assert_array_equal(decode(variables, codes), quantized.z)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_fewer_codebooks_are_the_first_ones(variables, count):
  z = normal(2, 6, 5)
  codes = encode(variables, z)
  few = encode(variables, z, count)
  np.testing.assert_array_equal(few, codes[..., :count])
  dropped = np.where(np.arange(4) < count, codes, -1)
  np.testing.assert_array_equal(
    decode(variables, few),
    decode(variables, dropped),
  )


def test_dropped_codebooks_are_neither_counted_nor_paid_for(variables):
  z = normal(2, 6, 5)
  dropped = train(variables, z, num_active=np.array([1, 1]))
  assert (dropped.codes[..., 1:] == -1).all()
  np.testing.assert_array_equal(dropped.statistics.counts[1:], 0)
  inner = z @ variables["params"]["semantic_in"]["kernel"]
  codebook = variables["params"]["semantic"]["codebooks"][0]
  nearest = ((inner[..., None, :] - codebook) ** 2).sum(-1).min(-1)
  np.testing.assert_allclose(dropped.loss, nearest.mean() / 3, rtol=1e-5)
  whole = train(variables, z)
  counts = whole.statistics.counts.sum(axis=-1)
  np.testing.assert_array_equal(counts, 12)
  assert whole.statistics.sums.shape == (4, 8, 3)


def test_the_latent_gets_its_gradient_through_both_parts(variables):
  z, weight = normal(1, 2, 5), normal(1, 2, 5, seed=3)
  gradient = jax.jit(jax.grad(lambda z: (weight * train(variables, z).z).sum()))(z)
  params = variables["params"]
  through = sum(
    params[f"{part}_in"]["kernel"] @ params[f"{part}_out"]["kernel"]
    for part in ("semantic", "acoustic")
  )
  np.testing.assert_allclose(gradient, weight @ np.asarray(through).T, atol=1e-5)
