"""Layers in strips of rows against the same layers over whole pictures."""

import functools

import jax
import numpy as np
import pytest

from jaxcodec import functional as F
from jaxcodec.functional import strips

RNG = np.random.default_rng(0)
N = 16


def drawn(*shape):
  return RNG.normal(size=shape).astype(np.float32) / np.sqrt(np.prod(shape[:3]))


NORM = np.ones(N, np.float32), np.abs(RNG.normal(size=(N, N))).astype(np.float32)
DOWN = [
  F.Conv(drawn(5, 5, 3, N), drawn(N), 2),
  F.Norm(*NORM),
  F.Conv(drawn(5, 5, N, N), drawn(N), 2),
  F.Norm(*NORM),
]
UP = [
  F.Conv(drawn(5, 5, N, N), drawn(N), 2, up=True),
  F.Norm(*NORM, inverse=True),
  F.Conv(drawn(5, 5, N, 3), drawn(3), 2, up=True),
]


# Five rows of the smaller end: strips of 2 overlap, and those of 8 are the whole.
@pytest.mark.parametrize(("layers", "shape"), [(DOWN, (2, 20, 24, 3)), (UP, (2, 5, 6, N))])
def test_strips_give_what_whole_pictures_do(layers, shape):
  x = RNG.normal(size=shape).astype(np.float32)

  @jax.jit
  def run(layers, x):
    return strips.whole(layers, x), [strips.in_strips(layers, x, rows) for rows in (2, 8)]

  want, found = run(layers, x)
  assert np.abs(want).max() > 0.1
  for y in found:
    np.testing.assert_allclose(y, want, atol=1e-6)


def test_layers_both_ways_and_odd_sizes_are_refused():
  with pytest.raises(ValueError, match="all widen or all narrow"):
    strips.in_strips([*DOWN, *UP], np.zeros((1, 8, 8, 3), np.float32), 2)
  with pytest.raises(ValueError, match="6 rows are not 4 times a number"):
    strips.in_strips(DOWN, np.zeros((1, 6, 8, 3), np.float32), 2)


def test_large_pictures_go_in_strips_but_for_gradients_and_on_other_platforms():
  x = jax.ShapeDtypeStruct((1, 1024, 1024, 3), np.float32)
  call = jax.jit(lambda layers, x: F.in_turn(layers, x, 8))
  loss = jax.jit(lambda layers, x: F.in_turn(layers, x, 8).sum())

  def loops(function, platform="cpu"):
    lowered = jax.jit(function).trace(DOWN, x).lower(lowering_platforms=(platform,))
    return lowered.as_text().count("stablehlo.while")

  assert loops(call) == 1
  assert loops(call, "tpu") == 0
  assert loops(jax.grad(loss)) == 0


@pytest.mark.slow
@pytest.mark.optimized
def test_latents_of_a_photograph_have_the_same_bits_in_strips_of_any_size():
  n = 128
  layers = [
    F.Conv(drawn(5, 5, 3, n), drawn(n), 2),
    F.Norm(np.ones(n, np.float32), 0.1 * np.eye(n, dtype=np.float32)),
    F.Conv(drawn(5, 5, n, n), drawn(n), 2),
  ]
  x = RNG.normal(size=(1, 128, 192, 3)).astype(np.float32)
  want = np.asarray(jax.jit(strips.whole)(layers, x))
  for rows in (3, 8, 16):
    found = jax.jit(functools.partial(strips.in_strips, rows=rows))(layers, x)
    np.testing.assert_array_equal(found, want)
