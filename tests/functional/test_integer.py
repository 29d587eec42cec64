"""8-bit arithmetic against the same formulas on Python's integers, which have no width."""

import fractions
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxcodec.functional import integer

INT32 = st.integers(-(2**31), 2**31 - 1)
many = settings(max_examples=30, deadline=None)

high_product = jax.jit(integer.high_product)
rounding_shift = jax.jit(integer.rounding_shift)
rescale = jax.jit(integer.rescale)
add = jax.jit(integer.add)
leaky_relu = jax.jit(integer.leaky_relu)
quantize = jax.jit(integer.quantize)


def nearest(numerator: int, denominator: int) -> int:
  """Halves away from zero."""
  whole = (2 * abs(numerator) + denominator) // (2 * denominator)
  return whole if numerator >= 0 else -whole


def rescaled(x: int, multiplier: int, shift: int) -> int:
  x = (x * 2 ** max(shift, 0) * multiplier + 2**30) // 2**31
  return nearest(x, 2 ** max(-shift, 0))


def ints(values):
  return jnp.array(values, jnp.int32)


@given(st.lists(st.tuples(INT32, st.integers(0, 2**31 - 1)), min_size=64, max_size=64))
@many
def test_high_product_is_that_of_wide_integers(pairs):
  pairs = [*pairs, (-(2**31), 2**31 - 1), (2**31 - 1, 2**31 - 1), (-1, 2**30), (1, 2**30)]
  a, b = zip(*pairs, strict=True)
  want = [(x * y + 2**30) // 2**31 for x, y in pairs]
  np.testing.assert_array_equal(high_product(ints(a), ints(b)), want)


@given(st.lists(st.tuples(INT32, st.integers(0, 30)), min_size=64, max_size=64))
@many
def test_rounding_shift_is_to_the_nearest(pairs):
  pairs = [*pairs, (1, 1), (-1, 1), (3, 1), (-3, 1), (-(2**31), 30), (5, 0)]
  x, exponent = zip(*pairs, strict=True)
  want = [nearest(v, 2**e) for v, e in pairs]
  np.testing.assert_array_equal(rounding_shift(ints(x), ints(exponent)), want)


@given(st.floats(1e-9, 8.0), st.lists(st.integers(-(2**24), 2**24), min_size=16, max_size=16))
@many
def test_rescale_multiplies_by_the_factor_and_rounds_twice(factor, values):
  multiplier, shift = integer.fixed_point(np.float64(factor))
  exact = fractions.Fraction(int(multiplier)) * fractions.Fraction(2) ** (int(shift) - 31)
  assert abs(exact / fractions.Fraction(factor) - 1) < 2**-30
  got = rescale(ints(values), multiplier, shift)
  np.testing.assert_array_equal(got, [rescaled(v, int(multiplier), int(shift)) for v in values])
  assert all(abs(int(g) - v * exact) <= 1 for g, v in zip(got, values, strict=True))


def test_fixed_point_of_a_factor_that_rounds_up_to_one_or_vanishes():
  multiplier, shift = integer.fixed_point(np.array([1 - 2.0**-40, 2.0**-40, 0.75]))
  np.testing.assert_array_equal(multiplier, [2**30, 0, 3 * 2**29])
  np.testing.assert_array_equal(shift, [1, 0, 0])


def test_quantize_rounds_halves_away_from_zero_and_saturates():
  below = np.nextafter(np.float32(0.5), np.float32(0))
  x = np.array([0.5, -0.5, below, 1.5, -2.5, 1e30, -1e30, 0.0], np.float32)
  got = quantize(2 * x, jnp.float32(2.0), jnp.int32(-60))
  np.testing.assert_array_equal(got, [1, -1, 0, 2, -3, 187, -68, 0])


@given(st.integers(-128, 127), st.floats(0.05, 20.0), st.floats(0.05, 20.0))
@many
def test_leaky_relu_scales_each_sign_by_its_factor(zero_point, scale_in, scale_out):
  x = np.arange(-128, 128) - 7
  factors = [scale_in / scale_out, 0.3 * scale_in / scale_out]
  multipliers, shifts = integer.fixed_point(np.array(factors))
  want = [rescaled(int(v), int(multipliers[int(v < 0)]), int(shifts[int(v < 0)])) for v in x]
  got = leaky_relu(ints(x), multipliers, shifts, jnp.int32(zero_point))
  np.testing.assert_array_equal(got, np.clip(want, -128 - zero_point, 127 - zero_point))


@given(st.floats(0.05, 20.0), st.floats(0.05, 20.0), st.floats(0.05, 20.0))
@many
def test_add_is_within_one_step_of_the_sum(scale_x, scale_y, scale_out):
  rng = np.random.default_rng(0)
  x, y = rng.integers(-255, 256, (2, 64))
  twice = 2 * max(scale_x, scale_y)
  factors = [scale_x / twice, scale_y / twice, twice / (2**20 * scale_out)]
  got = add(ints(x), ints(y), *integer.fixed_point(np.array(factors)), jnp.int32(5))
  want = np.clip((scale_x * x + scale_y * y) / scale_out, -133, 122)
  assert np.abs(got - want).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("groups", [1, 2])
def test_integer_convolutions_are_sums_of_whole_products(groups):
  rng = np.random.default_rng(1)
  x = rng.integers(-255, 256, (2, 6, 256))
  kernel = rng.integers(-128, 128, (1, 256 // groups, 4)).astype(np.int8)
  bias = rng.integers(-(2**20), 2**20, 4)
  wide, parts = kernel.astype(np.int64)[0], np.split(x, groups, axis=-1)
  columns = np.split(wide, groups, axis=-1)
  want = np.concatenate([p @ c for p, c in zip(parts, columns, strict=True)], axis=-1) + bias
  got, _ = integer.integer_conv(ints(x), kernel, ints(bias), groups=groups)
  np.testing.assert_array_equal(got, want)
  got = integer.integer_conv_transpose(ints(x), kernel, ints(bias), stride=1, groups=groups)
  np.testing.assert_array_equal(got, want)


def test_sums_that_float32_cannot_hold_are_refused():
  limit = math.floor(2**24 / (255 * 128))
  x, bias = jnp.zeros((1, 1, limit + 1), jnp.int32), jnp.zeros(2, jnp.int32)
  with pytest.raises(ValueError, match="515 products of 8 bits"):
    integer.integer_conv(x, jnp.zeros((1, limit + 1, 2), jnp.int8), bias)
