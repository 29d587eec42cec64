"""What kernels over packed weights [K, N] share: tiles that hold whole runs and whole groups."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.affine_quant.pack import fields_of, run_length

INTERLEAVE = 8


class Tiles(NamedTuple):
  """How K is cut: `steps` tiles of `depth` rows with `groups` scales each.

  Attributes:
    whole: one group holds all of K, so that every tile has the same scale.
  """

  depth: int
  steps: int
  groups: int
  whole: bool

  @property
  def length(self) -> int:
    """K with the fill of the last tile."""
    return self.depth * self.steps


def tiles(length: int, groups: int, bits: int, most: int) -> Tiles | None:
  """Tiles of about `most` rows at most; None where a group would begin inside a register."""
  group, run = length // groups, run_length(bits, INTERLEAVE)
  if groups not in (1, length) and group % 8:
    return None
  unit = run if groups == 1 else math.lcm(run, group)
  depth = min(unit * max(most // unit, 1), -(-length // unit) * unit)
  return Tiles(depth, -(-length // depth), 1 if groups == 1 else depth // group, groups == 1)


def by_tile(s: jax.Array, plan: Tiles) -> jax.Array:
  """Scales or offsets [tiles, groups of a tile, N or 1], one past the last group."""
  count = plan.groups * (1 if plan.whole else plan.steps)
  s = jnp.pad(s, ((0, count - s.shape[0]), (0, 0)), constant_values=1)
  return s.reshape(-1, plan.groups, s.shape[1])


def scale_spec(s: jax.Array, plan: Tiles, columns: int, place) -> pl.BlockSpec:
  """Blocks of what `by_tile` gave; `place` tells the tile's (row, column) at a grid step."""
  one = s.shape[2] == 1

  def index(*grid):
    k, n = place(*grid)
    return 0 if plan.whole else k, 0, 0 if one else n

  return pl.BlockSpec((1, plan.groups, 1 if one else columns), index)


def codes_of(words: jax.Array, bits: int, signed: bool) -> jax.Array:
  """int32 codes [depth, N] of a tile of words."""
  codes = fields_of(words, bits, INTERLEAVE)
  return codes << 32 - bits >> 32 - bits if signed else codes


def against(x: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
  """float32 tile [depth, N] and scales [groups, N or 1], shaped to broadcast."""
  x, s = x.astype(jnp.float32), s.astype(jnp.float32)
  if s.shape[0] == x.shape[0]:
    return x, s
  return x.reshape(s.shape[0], x.shape[0] // s.shape[0], x.shape[1]), s[:, None]


def dequantized(codes: jax.Array, scale: jax.Array, offset: jax.Array | None) -> jax.Array:
  """float32 [depth, N] of a tile of codes."""
  x, s = against(codes, scale)
  x = x * s
  if offset is not None:
    x = x + against(codes, offset)[1]
  return x.reshape(codes.shape)
