"""Which keys a query sees: masks that are joined by `&` and `|`.

A mask is a pytree: sizes and offsets are static, lengths and ids are arrays. Besides its definition
(`sees`) each says between which keys the sights of a run of queries lie, and the reverse, so that a
kernel neither loads nor computes blocks outside. Those bounds may be too wide, never too narrow;
those within which all see all may be too narrow, never too wide.

Query i stands at key i + offset: with a cache of past keys the offset is their number.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

# Beyond any index, and far from overflow when sizes are added.
FAR = 1 << 29
NONE = FAR, -FAR


def whole(x, size: int):
  """x // size of what is not negative; the general form takes more, and more than kernels have."""
  return x // size if isinstance(x, int) else jax.lax.div(x, jnp.int32(size))


class Mask:
  """What all masks share; `mask & other` sees where both do, `mask | other` where one does.

  Attributes:
    kinds: what each array of this mask belongs to: "row" [B], "query" [B, Tq] or "key" [B, Tk].
  """

  kinds: ClassVar[tuple[str, ...]] = ()

  def __and__(self, other: "Mask") -> "Mask":
    return Both(self, other)

  def __or__(self, other: "Mask") -> "Mask":
    return Either(self, other)

  def sees(self, i, j):
    """Whether query i sees key j, for indices and arrays that broadcast against each other."""
    raise NotImplementedError

  def keys(self, first, last):
    """The lowest and highest key that queries first..last can see."""
    del first, last
    return -FAR, FAR

  def queries(self, first, last):
    """The lowest and highest query that can see keys first..last."""
    del first, last
    return -FAR, FAR

  def shared_keys(self, first, last):
    """The lowest and highest of keys that each of the queries first..last sees."""
    del first, last
    return NONE

  def touches(self, queries, keys):
    """Whether any of the (first, last) queries can see any of the (first, last) keys."""
    low, high = self.keys(*queries)
    return (low <= keys[1]) & (keys[0] <= high)


@dataclass_transform(frozen_default=True)
def _static(cls):
  cls = dataclasses.dataclass(frozen=True)(cls)
  names = [field.name for field in dataclasses.fields(cls)]
  return jax.tree_util.register_dataclass(cls, data_fields=[], meta_fields=names)


@dataclass_transform(frozen_default=True)
def _arrays(cls):
  cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
  names = [field.name for field in dataclasses.fields(cls)]
  return jax.tree_util.register_dataclass(cls, data_fields=names, meta_fields=[])


@_static
class Window(Mask):
  """Keys from `before` steps before the query to `after` steps after it."""

  before: int
  after: int = 0
  offset: int = 0

  def sees(self, i, j):
    lag = i + self.offset - j
    return (lag <= self.before) & (lag >= -self.after)

  def keys(self, first, last):
    return first + self.offset - self.before, last + self.offset + self.after

  def queries(self, first, last):
    return first - self.offset - self.after, last - self.offset + self.before

  def shared_keys(self, first, last):
    return last + self.offset - self.before, first + self.offset + self.after


@_static
class Causal(Mask):
  """Keys up to the query's own."""

  offset: int = 0

  def sees(self, i, j):
    return j <= i + self.offset

  def keys(self, first, last):
    return -FAR, last + self.offset

  def queries(self, first, last):
    return first - self.offset, FAR

  def shared_keys(self, first, last):
    return -FAR, first + self.offset


@_static
class Chunked(Mask):
  """Keys of the query's own chunk and of the `left` chunks before it, as a streaming Conformer's.

  Source: Noroozi et al., https://arxiv.org/abs/2312.17279, section 3.1. The offset is not negative.
  """

  size: int
  left: int = 0
  offset: int = 0

  def sees(self, i, j):
    chunk = whole(i + self.offset, self.size)
    return (j >= (chunk - self.left) * self.size) & (j < (chunk + 1) * self.size)

  def keys(self, first, last):
    first, last = (whole(x + self.offset, self.size) for x in (first, last))
    return (first - self.left) * self.size, (last + 1) * self.size - 1

  def queries(self, first, last):
    first, last = (whole(x, self.size) for x in (first, last))
    return (
      first * self.size - self.offset,
      (last + self.left + 1) * self.size - 1 - self.offset,
    )

  def shared_keys(self, first, last):
    first, last = (whole(x + self.offset, self.size) for x in (first, last))
    return (last - self.left) * self.size, (first + 1) * self.size - 1


@_arrays
class Lengths(Mask):
  """Keys before `lengths[b]`: what lies past a row's end is padding."""

  kinds: ClassVar[tuple[str, ...]] = ("row",)

  lengths: jax.Array

  def sees(self, i, j):
    return (i >= 0) & (j < self.lengths)

  def keys(self, first, last):
    return -FAR, self.lengths - 1

  def shared_keys(self, first, last):
    return -FAR, self.lengths - 1


@_arrays
class Segments(Mask):
  """Keys of the query's own segment, for several signals in one row; negative ids are padding."""

  kinds: ClassVar[tuple[str, ...]] = ("query", "key")

  query_ids: jax.Array
  key_ids: jax.Array

  def sees(self, i, j):
    return (self.query_ids == self.key_ids) & (self.key_ids >= 0) & (i >= 0) & (j >= 0)

  def touches(self, queries, keys):
    q, k = self.query_ids, self.key_ids
    return (jnp.max(q) >= jnp.min(k)) & (jnp.max(k) >= jnp.min(q))


@_arrays
class Arrow(Mask):
  """Segments of which the one with id 0 sees all and is seen by all; negative ids are padding.

  Uni-Encoder's mask: candidates see the history (0) and themselves, not each other.
  Source: Song et al., https://arxiv.org/abs/2106.01263, section 3.
  """

  kinds: ClassVar[tuple[str, ...]] = ("query", "key")

  query_ids: jax.Array
  key_ids: jax.Array

  def sees(self, i, j):
    q, k = self.query_ids, self.key_ids
    joined = (q == k) | (q == 0) | (k == 0)
    return joined & (q >= 0) & (k >= 0) & (i >= 0) & (j >= 0)

  def touches(self, queries, keys):
    q, k = self.query_ids, self.key_ids
    apart = (jnp.max(q) < jnp.min(k)) | (jnp.max(k) < jnp.min(q))
    return jnp.logical_not(apart & (jnp.min(q) > 0) & (jnp.min(k) > 0))


@_arrays
class Both(Mask):
  """What two masks see alike."""

  a: Mask
  b: Mask

  def sees(self, i, j):
    return self.a.sees(i, j) & self.b.sees(i, j)

  def keys(self, first, last):
    return _narrow(self.a.keys(first, last), self.b.keys(first, last))

  def queries(self, first, last):
    return _narrow(self.a.queries(first, last), self.b.queries(first, last))

  def shared_keys(self, first, last):
    return _narrow(self.a.shared_keys(first, last), self.b.shared_keys(first, last))

  def touches(self, queries, keys):
    return self.a.touches(queries, keys) & self.b.touches(queries, keys)


@_arrays
class Either(Mask):
  """What one of two masks sees."""

  a: Mask
  b: Mask

  def sees(self, i, j):
    return self.a.sees(i, j) | self.b.sees(i, j)

  def keys(self, first, last):
    return _widen(self.a.keys(first, last), self.b.keys(first, last))

  def queries(self, first, last):
    return _widen(self.a.queries(first, last), self.b.queries(first, last))

  def touches(self, queries, keys):
    return self.a.touches(queries, keys) | self.b.touches(queries, keys)


def _narrow(a, b):
  return _higher(a[0], b[0]), _lower(a[1], b[1])


def _widen(a, b):
  return _lower(a[0], b[0]), _higher(a[1], b[1])


# Bounds of static masks are known while tracing as long as no jnp function touches them.
def _lower(a, b):
  return min(a, b) if isinstance(a, int) and isinstance(b, int) else jnp.minimum(a, b)


def _higher(a, b):
  return max(a, b) if isinstance(a, int) and isinstance(b, int) else jnp.maximum(a, b)


def kinds(mask: Mask | None) -> tuple[str, ...]:
  """What each leaf of a mask belongs to, in the order of the leaves."""
  if isinstance(mask, Both | Either):
    return kinds(mask.a) + kinds(mask.b)
  return () if mask is None else mask.kinds


def with_leaves(mask: Mask | None, **by_kind) -> Mask | None:
  """The mask with other arrays, given as lists for each of its kinds, each in the leaves' order."""
  leaves: dict[str, Iterator] = {kind: iter(arrays) for kind, arrays in by_kind.items()}
  structure = jax.tree.structure(mask)
  return jax.tree.unflatten(structure, [next(leaves[kind]) for kind in kinds(mask)])


def leaves_by_kind(mask: Mask | None) -> dict[str, list]:
  """The arrays of a mask: lists for "row", "query" and "key"."""
  found: dict[str, list] = {"row": [], "query": [], "key": []}
  for kind, leaf in zip(kinds(mask), jax.tree.leaves(mask), strict=True):
    found[kind].append(leaf)
  return found


def check(mask: Mask | None, batch: int, queries: int, keys: int) -> None:
  """Raises ValueError for an array that has not the shape of its kind or is no integers."""
  shapes = {"row": (batch,), "query": (batch, queries), "key": (batch, keys)}
  for kind, leaf in zip(kinds(mask), jax.tree.leaves(mask), strict=True):
    if leaf.shape != shapes[kind] or not jnp.issubdtype(leaf.dtype, jnp.integer):
      raise ValueError(
        f"{type(mask).__name__} mask: an array of a {kind} must be integers of shape"
        f" {shapes[kind]}, got {leaf.dtype} {leaf.shape}"
      )


def bare(mask: Mask | None, arrays) -> Mask | None:
  """The mask with `arrays` for each of its arrays: one without any is static."""
  return None if mask is None else jax.tree.map(lambda _: arrays, mask)


def dense(mask: Mask, queries: tuple[int, int], keys: tuple[int, int]):
  """bool [B, Tq, Tk] of queries and keys first..last - 1; [1, Tq, Tk] if rows are all alike."""
  rows, columns = slice(*queries), slice(*keys)
  found = leaves_by_kind(mask)
  local = with_leaves(
    mask,
    row=[x[:, None, None] for x in found["row"]],
    query=[x[:, rows, None] for x in found["query"]],
    key=[x[:, None, columns] for x in found["key"]],
  )
  assert local is not None
  i, j = (np.arange(*ends, dtype=np.int32) for ends in (queries, keys))
  return local.sees(i[None, :, None], j[None, None])
