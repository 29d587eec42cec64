"""Bits of float32 sums against NumPy, which rounds each product and each sum by itself."""

import functools

import jax
import numpy as np
import pytest

from jaxcodec.functional import ordered


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def conv_in_order(x, kernel, bias, stride, groups):
  width, per_group, features = kernel.shape
  x = np.pad(x, ((0, 0), (width - stride, 0), (0, 0)))
  steps = (x.shape[1] - width) // stride + 1
  y = np.zeros((x.shape[0], steps, features), np.float32)
  group = np.arange(features) // (features // groups)
  for tap in range(width):
    for channel in range(per_group):
      inputs = x[:, tap : tap + steps * stride : stride][:, :steps, group * per_group + channel]
      y += inputs * kernel[tap, channel]
  return y + bias


@pytest.mark.parametrize(("width", "stride", "groups"), [(64, 16, 1), (4, 2, 2), (1, 1, 3)])
def test_a_convolution_has_the_bits_of_its_sums_in_order(width, stride, groups):
  x, kernel = normal(2, 4 * stride, 12), normal(width, 12 // groups, 6, seed=1)
  bias = normal(6, seed=2)
  function = jax.jit(functools.partial(ordered.ordered_conv, stride=stride, groups=groups))
  whole, _ = function(x, kernel, bias)
  np.testing.assert_array_equal(whole, conv_in_order(x, kernel, bias, stride, groups))
  first, state = function(x[:, : 2 * stride], kernel, bias)
  second, _ = function(x[:, 2 * stride :], kernel, bias, state)
  np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)


@pytest.mark.parametrize("dilation", [1, 3])
def test_a_depthwise_convolution_has_the_bits_of_its_sums_in_order(dilation):
  x, kernel, bias = normal(2, 9, 64), normal(3, 64, seed=1), normal(64, seed=2)
  function = jax.jit(functools.partial(ordered.ordered_depthwise_conv, dilation=dilation))
  whole, _ = function(x, kernel, bias)
  padded = np.pad(x, ((0, 0), (2 * dilation, 0), (0, 0)))
  want = np.zeros_like(x)
  for i in range(3):
    want += padded[:, i * dilation : i * dilation + 9] * kernel[i]
  np.testing.assert_array_equal(whole, want + bias)
  first, state = function(x[:, :4], kernel, bias)
  second, _ = function(x[:, 4:], kernel, bias, state)
  np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)


def test_a_product_is_rounded_before_it_is_added_to():
  x, y, z = (normal(4096, seed=seed) for seed in range(3))
  got = jax.jit(lambda x, y, z: ordered.product(x, y) + z)(x, y, z)
  np.testing.assert_array_equal(got, x * y + z)
