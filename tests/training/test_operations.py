"""Operations counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from jaxcodec.training import operations

PRODUCT = 2 * 8**3  # Of two matrices of 8 x 8.


def _count(function, *shapes, platform="tpu"):
  traced = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
  return operations.flops(traced.jaxpr, platform)


def test_a_product_and_one_that_nothing_depends_on():
  def function(x):
    x @ (x + 1)
    return x @ x

  assert _count(function, (8, 8)) == PRODUCT


def test_a_loop_counts_as_often_as_it_runs():
  def function(x):
    return jax.lax.scan(lambda y, _: (y @ x, None), x, length=5)[0]

  assert _count(function, (8, 8)) == 5 * PRODUCT


@pytest.mark.parametrize(("platform", "times"), [("cpu", 3), ("tpu", 1), ("cuda", 2)])
def test_of_a_choice_by_platform_what_the_platform_takes(platform, times):
  def function(x):
    return jax.lax.platform_dependent(
      x, cpu=lambda x: x @ x @ x @ x, tpu=lambda x: x @ x, default=lambda x: x @ x @ x
    )

  assert _count(function, (8, 8), platform=platform) == times * PRODUCT


def test_of_a_choice_by_value_the_larger_side():
  def function(x):
    return jax.lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

  assert _count(function, (8, 8)) == 2 * PRODUCT


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_and_its_gradient(stride):
  def function(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (stride,), "VALID", dimension_numbers=("NHC", "HIO", "NHC")
    )

  def gradient(x, kernel, g):
    return jax.linear_transpose(lambda x: function(x, kernel), x)(g)

  length = (32 - 4) // stride + 1
  assert _count(function, (1, 32, 5), (4, 5, 6)) == 2 * length * 6 * 4 * 5
  # At every input's place, of the taps that do not meet the zeros between outputs.
  assert _count(gradient, (1, 32, 5), (4, 5, 6), (1, length, 6)) == 2 * 32 * 5 * 4 * 6 / stride
