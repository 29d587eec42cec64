"""Which part of each array a grid step of the attention kernels holds: blocks, padding, bounds."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.attention import masks
from pallas_kernels.attention.bias import Alibi

BLOCK = 512


class Plan(NamedTuple):
  """Static facts of a call: lengths, block sizes, and how many query heads share a key head."""

  queries: int
  keys: int
  rows: int
  columns: int
  group: int

  @property
  def blocks(self):
    return -(-self.queries // self.rows), -(-self.keys // self.columns)


class Side(NamedTuple):
  """What kind of bias there is: ALiBi's offset, or a dense bias' first two sizes; how many ids."""

  alibi: int | None
  dense: tuple[int, int] | None
  query_ids: int
  key_ids: int


def side_of(bias, mask):
  found = masks.leaves_by_kind(mask)
  alibi = bias.offset if isinstance(bias, Alibi) else None
  dense = None if bias is None or alibi is not None else bias.shape[:2]
  return Side(alibi, dense, len(found["query"]), len(found["key"]))


def plan_of(q, k):
  # 16: a register of bfloat16 is 16 rows; 128: a row of scores is whole registers wide.
  rows = min(BLOCK, -(-q.shape[1] // 16) * 16)
  columns = min(BLOCK, -(-k.shape[1] // 128) * 128)
  return Plan(q.shape[1], k.shape[1], rows, columns, q.shape[2] // k.shape[2])


def padded(x, block):
  return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % block), (0, 0)))


def heads_first(x, block):
  return padded(jnp.swapaxes(x, 1, 2), block)


def heads_third(x, length):
  return jnp.swapaxes(x[:, :, :length], 1, 2)


def scalars(bias, mask):
  rows = [x.astype(jnp.int32) for x in masks.leaves_by_kind(mask)["row"]]
  # An empty operand cannot be prefetched.
  stacked = jnp.stack(rows) if rows else jnp.zeros((1, 1), jnp.int32)
  slopes = bias.slopes.astype(jnp.float32) if isinstance(bias, Alibi) else jnp.zeros(1)
  return stacked, slopes


def arrays_of(bias, mask, plan):
  """Ids as columns and rows, -1 where padded, and a dense bias, by name."""
  found = masks.leaves_by_kind(mask)
  rows, columns = -plan.queries % plan.rows, -plan.keys % plan.columns

  def fill(x, width):
    return jnp.pad(x.astype(jnp.int32), ((0, 0), (0, width)), constant_values=-1)

  arrays: dict = {
    "query": [fill(x, rows)[:, :, None] for x in found["query"]],
    "key": [fill(x, columns)[:, None] for x in found["key"]],
  }
  if bias is not None and not isinstance(bias, Alibi):
    arrays["bias"] = jnp.pad(bias, ((0, 0), (0, 0), (0, rows), (0, columns)))
  return arrays


def _specs(plan, side, place):
  """Blocks of `_arrays` where `place` gives (b, h, i, j) of a grid step."""
  specs: dict = {
    "query": [pl.BlockSpec((1, plan.rows, 1), lambda *g: (place(*g)[0], place(*g)[2], 0))]
    * side.query_ids,
    "key": [pl.BlockSpec((1, 1, plan.columns), lambda *g: (place(*g)[0], 0, place(*g)[3]))]
    * side.key_ids,
  }
  if side.dense is not None:

    def bias(*grid):
      b, h, i, j = place(*grid)
      return (0 if side.dense[0] == 1 else b, 0 if side.dense[1] == 1 else h, i, j)

    specs["bias"] = pl.BlockSpec((1, 1, plan.rows, plan.columns), bias)
  return specs


def by_query(plan, side, mask, features):
  """Index maps of query and key blocks, and other arrays' specs, on a grid (b, h, i, j)."""
  bare = masks.bare(mask, 0)

  def place(b, h, i, j, rows, slopes):
    if bare is not None:
      near = _with_rows(bare, rows, b).keys(i * plan.rows, (i + 1) * plan.rows - 1)
      j = _clip(j, near, plan.columns, plan.blocks[1])
    return b, h, i, j

  def query(b, h, i, *_):
    return b, h, i, 0

  def key(*grid):
    b, h, _, j = place(*grid)
    return b, masks.whole(h, plan.group), j, 0

  return query, key, _specs(plan, side, place)


def by_key(plan, side, mask):
  """The same on a grid (b, key head, j, group * i)."""
  bare = masks.bare(mask, 0)

  def place(b, head, j, step, rows, slopes):
    h, i = query_block(plan, head, step)
    if bare is not None:
      near = _with_rows(bare, rows, b).queries(j * plan.columns, (j + 1) * plan.columns - 1)
      i = _clip(i, near, plan.rows, plan.blocks[0])
    return b, h, i, j

  def query(*grid):
    b, h, i, _ = place(*grid)
    return b, h, i, 0

  def key(b, head, j, *_):
    return b, head, j, 0

  return query, key, _specs(plan, side, place)


def query_block(plan, head, step):
  """Query head and block of a step over all queries that share a key head."""
  member = masks.whole(step, plan.blocks[0])
  return head * plan.group + member, step - member * plan.blocks[0]


def _clip(block, near, size, count):
  """The nearest block that holds any of the indices near[0]..near[1]: no other need be fetched."""
  low, high = (masks.whole(jnp.clip(jnp.int32(x), 0, count * size - 1), size) for x in near)
  return jnp.clip(jnp.clip(block, low, high), 0, count - 1)


def _with_rows(bare, rows, b):
  number = masks.kinds(bare).count("row")
  zeros = [0] * masks.kinds(bare).count("query")
  values = [rows[n, b] for n in range(number)]
  return masks.with_leaves(bare, row=values, query=zeros, key=zeros)


def local_mask(bare, rows, arrays, b):
  if bare is None:
    return None
  number = masks.kinds(bare).count("row")
  return masks.with_leaves(
    bare,
    row=[rows[n, b] for n in range(number)],
    query=[ref[0] for ref in arrays["query"]],
    key=[ref[0] for ref in arrays["key"]],
  )


def touches(mask, plan, i, j):
  if mask is None:
    return j >= 0
  queries = i * plan.rows, (i + 1) * plan.rows - 1
  keys = j * plan.columns, (j + 1) * plan.columns - 1
  return mask.touches(queries, keys)
