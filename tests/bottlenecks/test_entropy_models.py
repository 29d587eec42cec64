"""Entropy models against CompressAI, as `tests/recorded/make_rate.py` has recorded it."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec import bottlenecks as B, functional as F

FILE = pathlib.Path(__file__).parents[1] / "recorded" / "rate.npz"
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
gradient_close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5)


@functools.cache
def recorded(case: str) -> dict[str, np.ndarray]:
  with np.load(FILE) as file:
    return {name.split("/")[1]: file[name] for name in file.files if name.startswith(case + "/")}


def density(params) -> F.Factorized:
  numbers = {"matrix": 5, "bias": 5, "factor": 4}
  return F.Factorized(*([params[f"{kind}_{i}"] for i in range(n)] for kind, n in numbers.items()))


def entropy_params():
  found = recorded("entropy")
  kinds = ("matrix", "bias", "factor", "quantiles")
  return {name: x for name, x in found.items() if name.split("_")[0] in kinds}


@pytest.mark.parametrize("mode", [pytest.param("rounded", marks=pytest.mark.slow), "noisy"])
def test_entropy_bottleneck_as_compressai(mode):
  """Its noise is in the recorded output; what that costs, and pulls, is the same."""
  found, params = recorded("entropy"), entropy_params()

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def gradient(params):
    likelihood = F.factorized_likelihood(found[f"z_q_{mode}"], density(params))
    return jnp.vdot(found["weight"], F.information_bits(likelihood)), likelihood

  to_params, likelihood = gradient(params)
  close(likelihood, found[f"likelihood_{mode}"])
  for name in params:
    if name != "quantiles":
      gradient_close(to_params[name], found[f"to_{name}_{mode}"])


def test_the_bottleneck_rounds_prices_and_moves_its_quantiles_as_compressai():
  found, params = recorded("entropy"), entropy_params()
  module = B.EntropyBottleneck(4)

  @jax.jit
  def run(params, z, key):
    loss = lambda params: module.apply({"params": params}, z).codebook_loss  # noqa: E731
    out = module.apply({"params": params}, z)
    return out, module.apply({"params": params}, z, key=key), jax.grad(loss)(params)

  out, noisy, to_params = run(params, found["z"], jax.random.key(0))
  close(out.z, found["z_q_rounded"])
  close(out.bits, -np.log2(found["likelihood_rounded"]).sum(axis=-1))
  close(out.codebook_loss, found["aux"])
  gradient_close(to_params.pop("quantiles"), found["to_quantiles"])
  assert not any(np.any(x) for x in jax.tree.leaves(to_params))
  noise = np.asarray(noisy.z) - found["z"]
  assert np.abs(noise).max() <= 0.5
  assert np.abs(noise).max() > 0.45
  np.testing.assert_array_equal(noisy.codes, out.codes)
  assert (noisy.bits != out.bits).all()


@pytest.mark.parametrize("mode", [pytest.param("rounded", marks=pytest.mark.slow), "noisy"])
def test_gaussian_conditional_as_compressai(mode):
  found = recorded("gaussian")

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
  def gradient(scales, means, noise):
    # The noisy value moves with z alone, the rounded one with the mean too.
    z_q = found["z_q_noisy"] if mode == "noisy" else noise + means
    likelihood = F.gaussian_likelihood(z_q, scales, means)
    return jnp.vdot(found["weight"], F.information_bits(likelihood)), likelihood

  rounded = found["z_q_rounded"] - found["means"]
  (to_scales, to_means), likelihood = gradient(found["scales"], found["means"], rounded)
  close(likelihood, found[f"likelihood_{mode}"])
  gradient_close(to_scales, found[f"to_scales_{mode}"])
  gradient_close(to_means, found[f"to_means_{mode}"])


def test_the_conditional_decodes_what_it_encodes_and_refuses_wrong_shapes():
  found = recorded("gaussian")
  module = B.GaussianConditional(4)
  z, scales, means = found["z"], found["scales"], found["means"]
  mask = np.arange(7) < np.array([[7], [3]])

  @jax.jit
  def run(z):
    codes = module.apply({}, z, means, method="encode")
    decoded = module.apply({}, codes, means, method="decode")
    return (
      codes,
      decoded,
      *(module.apply({}, z, m, scales=scales, means=means) for m in (None, mask)),
    )

  codes, decoded, out, masked = run(z)
  np.testing.assert_array_equal(out.codes, codes)
  np.testing.assert_array_equal(
    np.asarray(decoded).view(np.int32), np.asarray(out.z).view(np.int32)
  )
  close(out.z, found["z_q_rounded"])
  close(out.bits, -np.log2(found["likelihood_rounded"]).sum(axis=-1))
  np.testing.assert_array_equal(masked.bits, np.where(mask, out.bits, 0))
  assert (np.asarray(masked.codes)[~mask] == -1).all()
  other = run(np.where(mask[..., None], z, np.nan))[3]
  jax.tree.map(np.testing.assert_array_equal, other, masked)
  with pytest.raises(ValueError, match=r"scales \(2, 7, 3\) must broadcast to z \(2, 7, 4\)"):
    module.apply({}, z, scales=scales[..., :3])


def test_likelihoods_far_out_keep_their_digits():
  """Where the difference of two sigmoids near one is zero."""
  model = density(entropy_params())
  z = np.full((1, 4), 150, np.float32)
  lower, upper = (np.float64(F.factorized_logits(z + d, model)) for d in (-0.5, 0.5))
  # 1 / (1 + e^-u) - 1 / (1 + e^-l), written for large u and l.
  want = np.exp(-lower) / (1 + np.exp(-lower)) - np.exp(-upper) / (1 + np.exp(-upper))
  assert (lower > 15).any()
  np.testing.assert_allclose(F.factorized_likelihood(z, model), want, rtol=1e-2)


def test_soft_rounding_lies_between_nothing_and_rounding():
  z = np.linspace(-3.4, 3.4, 200, dtype=np.float32)
  np.testing.assert_array_equal(F.soft_round(z, 0.0), z)
  np.testing.assert_allclose(F.soft_round(z, 1e-2), z, atol=1e-3)
  clear = np.abs(z - np.floor(z) - 0.5) > 0.02
  np.testing.assert_allclose(F.soft_round(z[clear], 200.0), np.round(z[clear]), atol=1e-3)
  for alpha in (0.5, 3.0, 6.0):
    soft = np.asarray(F.soft_round(z, alpha))
    assert (np.diff(soft) > 0).all()
    np.testing.assert_allclose(F.soft_round_inverse(soft, alpha), z, atol=2e-4)
  grid = np.arange(-3, 4, dtype=np.float32)
  np.testing.assert_allclose(F.soft_round(grid, 5.0), grid, atol=1e-6)


def test_a_lower_bound_lets_through_what_leads_back():
  gradient = jax.vmap(jax.grad(lambda x, w: w * F.lower_bound(x, jnp.float32(0.5))))
  got = gradient(jnp.float32([0.2, 0.2, 0.9, 0.9]), jnp.float32([1, -1, 1, -1]))
  np.testing.assert_array_equal(got, [0, -1, 1, -1])


def test_rounding_and_its_noise_refuse_what_they_cannot_be():
  with pytest.raises(ValueError, match="reach must be at least 1, got 0"):
    B.GaussianConditional(4, reach=0).apply({}, np.zeros((1, 4), np.float32), scales=1.0)
