"""Networks in whole numbers: exact, and the real ones to their rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec import functional as F
from jaxcodec.functional import exact

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 7, 6)).astype(np.float32)
KERNEL = RNG.normal(size=(5, 5, 6, 8)).astype(np.float32) / 12
BIAS = RNG.normal(size=8).astype(np.float32)
MASK = F.checkerboard_mask(5)

CASES = {
  "conv": (exact.conv(KERNEL, BIAS), lambda x: F.conv2d(x, KERNEL, BIAS)),
  "masked": (exact.conv(KERNEL, BIAS, MASK), lambda x: F.conv2d(x, KERNEL * MASK, BIAS)),
  "deconv": (
    exact.deconv(KERNEL, BIAS, 2),
    lambda x: F.conv2d_transpose(x, KERNEL, BIAS, stride=2),
  ),
  "subpixel": (
    exact.subpixel(KERNEL[:3, :3], BIAS),
    lambda x: F.depth_to_space(F.conv2d(x, KERNEL[:3, :3], BIAS), 2),
  ),
}


@pytest.fixture(scope="module")
def real():
  """What float32 gives, of all cases in one program."""
  return jax.jit(lambda x: {name: run(x)[0] for name, (_, run) in CASES.items()})(X[None])


@pytest.mark.parametrize("case", CASES)
def test_a_layer_is_the_real_one_to_its_rounding(case, real):
  got = exact.apply(CASES[case][0], exact.whole(X)) / exact.UNIT
  # 150 products of weights that are off by 2^-17 at most, inputs by 2^-13, and the rounding.
  np.testing.assert_allclose(got, real[case], atol=2e-3, rtol=0)
  assert np.abs(got).max() > 1


@pytest.mark.parametrize("case", CASES)
def test_sums_are_those_of_integers_in_any_order(case):
  layer = CASES[case][0]
  x = exact.whole(1000 * X)  # Near the limit of what an activation may be.
  order = RNG.permutation(len(layer.phases[0].matrix))
  for phase in layer.phases:
    rows = np.repeat(np.arange(5), 7), np.tile(np.arange(7), 5)
    inputs = exact._gather(x, phase.taps, *rows)
    order = order[: len(phase.matrix)] if len(order) >= len(phase.matrix) else order
    integers = inputs.astype(np.int64) @ phase.matrix.astype(np.int64)
    np.testing.assert_array_equal(inputs @ phase.matrix, integers)
    shuffled = RNG.permutation(len(phase.matrix))
    np.testing.assert_array_equal(inputs[:, shuffled] @ phase.matrix[shuffled], integers)
    want = (integers + (phase.bias.astype(np.int64) << layer.shift)) * 2 + (1 << layer.shift)
    want = np.clip(want >> (layer.shift + 1), -exact.LIMIT, exact.LIMIT)
    np.testing.assert_array_equal(exact._shifted(phase, layer.shift, inputs), want)


def test_noise_in_sums_changes_nothing_at_any_size():
  whole = RNG.integers(-(2**52), 2**52, 10_000) >> RNG.integers(0, 52, 10_000)
  for shift in (1, 15, 29):
    # Where rounding turns, and what lies beside it.
    turns = (RNG.integers(-(2**22), 2**22, 1000) << shift) + (1 << (shift - 1))
    sums = np.concatenate([whole, turns - 1, turns, turns + 1])
    sums = sums[np.abs(sums) < 2**52]
    want = np.clip((sums + (1 << (shift - 1))) >> shift, -exact.LIMIT, exact.LIMIT)
    for noise in (0.0, 0.375, -0.375):  # To be added exactly.
      noisy = sums + np.where(np.abs(sums) < 2**50, noise, 0.0)
      np.testing.assert_array_equal(exact._descaled(noisy, shift), want)


def test_latents_of_forged_files_are_clipped_where_sums_would_be_too_large():
  most, far = np.full((1, 1, 6), 2.0**23), np.full((1, 1, 6), 2.0**40)
  for layer in (CASES["conv"][0], exact.depthwise(KERNEL[..., 0], BIAS[:6])):
    np.testing.assert_array_equal(exact.apply(layer, far), exact.apply(layer, most))


def test_places_of_a_layer_are_those_of_the_whole():
  layer, x = CASES["masked"][0], exact.whole(X)
  rows, columns = np.array([0, 4, 2]), np.array([0, 6, 3])
  whole = exact.apply(layer, x)
  np.testing.assert_array_equal(exact.apply_at(layer, x, rows, columns), whole[rows, columns])


def test_activations_are_whole():
  x = np.arange(-300.0, 300)
  np.testing.assert_array_equal(
    exact.leaky_relu(x), np.where(x < 0, x.astype(int) * 10486 >> 20, x)
  )
  np.testing.assert_array_equal(exact.relu(x), np.maximum(x, 0))


def test_what_would_not_be_exact_is_refused():
  with pytest.raises(ValueError, match="25000 products do not add up exactly"):
    exact.conv(np.zeros((5, 5, 1000, 1), np.float32), np.zeros(1))
  silent = exact.conv(jnp.zeros((3, 3, 6, 8)), jnp.zeros(8))
  assert not exact.apply(silent, exact.whole(X)).any()
