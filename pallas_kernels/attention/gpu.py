"""Flash attention for GPUs: forward, and backward in one kernel for dq and one for dk and dv.

A program of the first two holds a block of queries of one head and goes by the blocks of keys that
the mask's bounds allow; one of the third holds keys and goes by the queries of all heads that share
them. The first computes no mask where all see all. Arrays are taken as they lie, [B, T, H, D].
Numerics: as `tpu`'s; powers of two stand for those of e.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels import triton
from pallas_kernels.attention import masks
from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.reference import Rule
from pallas_kernels.dispatch import shape_like

# Queries and keys of a block, forward and backward, as an H100 was quickest with.
ROWS, COLUMNS = 64, 64
BACK_ROWS, BACK_COLUMNS = 64, 64
# Bytes of a query that leave room for three stages of keys and values, and for any.
SHORT, MOST = 256, 512
LOG2_E = math.log2(math.e)


def fits(q) -> bool:
  """Whether blocks of such queries find room on the chip."""
  return _bytes(q) <= MOST


def _bytes(q) -> int:
  return triton.power(q.shape[3]) * q.dtype.itemsize


def forward(q, k, v, bias, mask, *, rule: Rule, interpret=False):
  """Output and log-sum-exp, as `plain.forward`."""
  batch, queries, heads, _ = q.shape
  call = pl.pallas_call(
    functools.partial(_forward_kernel, **_static(bias, mask, rule, interpret)),
    out_shape=(
      shape_like(q, q.shape, q.dtype),
      shape_like(q, (batch, heads, queries, 1), jnp.float32),
    ),
    grid=(-(-queries // ROWS), heads, batch),
    compiler_params=triton.params(warps=4, stages=3 if _bytes(q) <= SHORT else 2),
    interpret=interpret,
    name="attention",
  )
  y, lse = call(q, k, v, _arrays(bias, mask))
  return y, lse[..., 0]


def backward(q, k, v, bias, mask, y, lse, dy, *, rule: Rule, interpret=False):
  """Cotangents, as `plain.backward`."""
  batch, queries, heads, _ = q.shape
  delta = jnp.sum(y.astype(jnp.float32) * dy.astype(jnp.float32), axis=-1)
  args = q, k, v, dy, lse[..., None], jnp.moveaxis(delta, 1, 2)[..., None], _arrays(bias, mask)
  static, dense = _static(bias, mask, rule, interpret), isinstance(bias, jax.Array)
  # Products of float32 copy what they multiply.
  stages = 1 if q.dtype == jnp.float32 and _bytes(q) > SHORT else 2
  options = {"compiler_params": triton.params(warps=4, stages=stages), "interpret": interpret}
  shapes = [shape_like(q, q.shape, q.dtype)]
  if dense:
    shapes.append(shape_like(q, (batch, heads, queries, k.shape[1]), jnp.float32))
  dq, *ds = pl.pallas_call(
    functools.partial(_queries_kernel, **static),
    out_shape=shapes,
    grid=(-(-queries // BACK_ROWS), heads, batch),
    name="attention_dq",
    **options,
  )(*args)
  dk, dv = pl.pallas_call(
    functools.partial(_keys_kernel, **static),
    out_shape=[shape_like(k, k.shape, k.dtype)] * 2,
    grid=(-(-k.shape[1] // BACK_COLUMNS), k.shape[2], batch),
    name="attention_dk_dv",
    **options,
  )(*args)
  if not dense:
    return dq, dk, dv, None
  axes = tuple(axis for axis in (0, 1) if bias.shape[axis] == 1)
  return dq, dk, dv, ds[0].sum(axes, keepdims=True).astype(bias.dtype)


def _static(bias, mask, rule, interpret):
  return {
    "rule": rule,
    "mask": masks.bare(mask, 0),
    "alibi": bias.offset if isinstance(bias, Alibi) else None,
    "product": triton.products(interpret),
    "fma": triton.fused(interpret),
    "exp2": triton.exp2(interpret),
  }


def _arrays(bias, mask) -> dict:
  """Arrays of a mask by kind, ids as columns and rows; ALiBi's slopes or a dense bias."""
  found = {
    kind: [x.astype(jnp.int32) for x in of] for kind, of in masks.leaves_by_kind(mask).items()
  }
  arrays: dict = {
    "row": found["row"],
    "query": [x[:, :, None] for x in found["query"]],
    "key": [x[:, None] for x in found["key"]],
  }
  if isinstance(bias, Alibi):
    arrays["slopes"] = bias.slopes.astype(jnp.float32)
  elif bias is not None:
    arrays["bias"] = bias
  return arrays


def _forward_kernel(q_ref, k_ref, v_ref, arrays, y_ref, lse_ref, **static):
  i, h, b = (pl.program_id(axis) for axis in range(3))
  rows = triton.span(i * ROWS, ROWS)
  columns = triton.span(0, triton.power(q_ref.shape[3]))
  head = jax.lax.div(h, q_ref.shape[2] // k_ref.shape[2])
  q = triton.load(q_ref, b, rows, h, columns)
  unit = _unit(arrays, static)
  power = unit * LOG2_E

  def turn(j, kept, masked):
    top, total, summed = kept
    keys = triton.span(j * COLUMNS, COLUMNS)
    k, v = (triton.load(ref, b, keys, head, columns) for ref in (k_ref, v_ref))
    scores, _ = _scores(q, k, arrays, (b, h, rows, keys), k_ref.shape[1], static, masked)
    before = top
    top = jnp.maximum(before, scores.max(axis=1, keepdims=True))
    # Not -inf - -inf where nothing is seen yet.
    safe = jnp.where(top == -jnp.inf, 0.0, top)
    weights = static["exp2"](static["fma"](scores, jnp.float32(power), -power * safe))
    rest = static["exp2"](power * (before - safe))
    total = rest * total + weights.sum(axis=1, keepdims=True)
    return top, total, rest * summed + static["product"](weights.astype(v.dtype), v, 1, 0)

  kept = (
    jnp.full((ROWS, 1), -jnp.inf, jnp.float32),
    jnp.zeros((ROWS, 1), jnp.float32),
    jnp.zeros((ROWS, columns.shape[0]), jnp.float32),
  )
  ends = i * ROWS, i * ROWS + ROWS - 1
  near, shared = (_near(static["mask"], name, arrays, b, ends) for name in ("keys", "shared_keys"))
  for first, last, masked in _runs(near, shared, COLUMNS, k_ref.shape[1]):
    kept = jax.lax.fori_loop(first, last, functools.partial(turn, masked=masked), kept)
  top, total, summed = kept
  total = jnp.where(total == 0.0, 1.0, total)
  triton.store(y_ref, summed / total, b, rows, h, columns)
  lse = unit * jnp.where(top == -jnp.inf, 0.0, top) + jnp.log(total)
  triton.store(lse_ref, lse, b, h, rows, triton.span(0, 1))


def _queries_kernel(
  q_ref, k_ref, v_ref, dy_ref, lse_ref, delta_ref, arrays, dq_ref, *ds_ref, **static
):
  i, h, b = (pl.program_id(axis) for axis in range(3))
  rows = triton.span(i * BACK_ROWS, BACK_ROWS)
  columns = triton.span(0, triton.power(q_ref.shape[3]))
  head = jax.lax.div(h, q_ref.shape[2] // k_ref.shape[2])
  q, dy = (triton.load(ref, b, rows, h, columns) for ref in (q_ref, dy_ref))
  sums = [triton.load(ref, b, h, rows, triton.span(0, 1)) for ref in (lse_ref, delta_ref)]

  def turn(j, dq):
    keys = triton.span(j * BACK_COLUMNS, BACK_COLUMNS)
    k, v = (triton.load(ref, b, keys, head, columns) for ref in (k_ref, v_ref))
    place = b, h, rows, keys
    _, ds = _weights((q, k, v, dy, *sums), arrays, place, k_ref.shape[1], static)
    if ds_ref:
      triton.store(ds_ref[0], ds, b, h, rows, keys)
    return dq + static["product"](ds.astype(k.dtype), k, 1, 0)

  length = k_ref.shape[1]
  ends = i * BACK_ROWS, (i + 1) * BACK_ROWS - 1
  # The cotangent of a dense bias is written everywhere.
  everywhere = 0, -(-length // BACK_COLUMNS)
  near = _near(static["mask"], "keys", arrays, b, ends)
  turns = everywhere if ds_ref else _blocks(near, BACK_COLUMNS, length)
  dq = jax.lax.fori_loop(turns[0], turns[1], turn, jnp.zeros(q.shape, jnp.float32))
  triton.store(dq_ref, static["rule"].scale * dq, b, rows, h, columns)


def _keys_kernel(q_ref, k_ref, v_ref, dy_ref, lse_ref, delta_ref, arrays, dk_ref, dv_ref, **static):
  j, head, b = (pl.program_id(axis) for axis in range(3))
  keys = triton.span(j * BACK_COLUMNS, BACK_COLUMNS)
  columns, one = triton.span(0, triton.power(q_ref.shape[3])), triton.span(0, 1)
  group = q_ref.shape[2] // k_ref.shape[2]
  k, v = (triton.load(ref, b, keys, head, columns) for ref in (k_ref, v_ref))
  ends = j * BACK_COLUMNS, (j + 1) * BACK_COLUMNS - 1
  near = _near(static["mask"], "queries", arrays, b, ends)
  first, last = _blocks(near, BACK_ROWS, q_ref.shape[1])
  count = jnp.maximum(last - first, 0)

  def turn(step, kept):
    dk, dv = kept
    member = jax.lax.div(step, jnp.maximum(count, 1))
    h = head * group + member
    rows = triton.span((first + step - member * count) * BACK_ROWS, BACK_ROWS)
    q, dy = (triton.load(ref, b, rows, h, columns) for ref in (q_ref, dy_ref))
    sums = [triton.load(ref, b, h, rows, one) for ref in (lse_ref, delta_ref)]
    place = b, h, rows, keys
    weights, ds = _weights((q, k, v, dy, *sums), arrays, place, k_ref.shape[1], static)
    dv = dv + static["product"](weights.astype(dy.dtype), dy, 0, 0)
    return dk + static["product"](ds.astype(q.dtype), q, 0, 0), dv

  nothing = jnp.zeros(k.shape, jnp.float32)
  dk, dv = jax.lax.fori_loop(0, group * count, turn, (nothing, nothing))
  triton.store(dk_ref, static["rule"].scale * dk, b, keys, head, columns)
  triton.store(dv_ref, dv, b, keys, head, columns)


def _near(bare, name, arrays, b, ends):
  """The bounds of this name, such as `Mask.keys`, of ends[0]..ends[1]."""
  if bare is None:
    return -masks.FAR, masks.FAR
  number = masks.kinds(bare).count
  known = masks.with_leaves(
    bare,
    row=[ref[b] for ref in arrays["row"]],
    query=[0] * number("query"),
    key=[0] * number("key"),
  )
  return getattr(known, name)(*ends)


def _blocks(bounds, size, length):
  """First and last + 1 of the blocks that hold what lies within bounds."""
  low, high = _clipped(bounds, length)
  return jax.lax.div(low, size), jax.lax.div(high + size, size)


def _clipped(bounds, length):
  return jnp.clip(jnp.int32(bounds[0]), 0, length), jnp.clip(jnp.int32(bounds[1]), -1, length - 1)


def _runs(near, shared, size, length):
  """`(first, last + 1, whether to mask)` of blocks of keys, one run after the other."""
  first, last = _blocks(near, size, length)
  if shared is masks.NONE:
    return [(first, last, True)]
  low, high = _clipped(shared, length)
  begin, end = jax.lax.div(low + size - 1, size), jax.lax.div(high + 1, size)
  begin = jnp.clip(begin, first, jnp.maximum(first, last))
  end = jnp.clip(end, begin, jnp.maximum(begin, last))
  runs = [(begin, end, False)]
  # Whether the first or the last block needs no mask is known while tracing, or not at all.
  if not _is(shared[0], -masks.FAR):
    runs.insert(0, (first, begin, True))
  if not _is(shared[1], masks.FAR) or length % size:
    runs.append((end, last, True))
  return runs


def _is(bound, known: int) -> bool:
  return isinstance(bound, int) and bound == known


def _weights(tiles, arrays, place, length, static):
  """Attention weights of a block, and the cotangent of its scores before the soft cap."""
  q, k, v, dy, lse, delta = tiles
  scores, bent = _scores(q, k, arrays, place, length, static)
  power = LOG2_E * _unit(arrays, static)
  weights = static["exp2"](static["fma"](scores, jnp.float32(power), -LOG2_E * lse))
  ds = weights * (static["product"](dy, v, 1, 1) - delta)
  return weights, ds if bent is None else ds * (1 - bent * bent)


def _unit(arrays, static) -> float:
  """What `_scores` leaves to multiply scores by: products go to the exponent in one instruction."""
  rule = static["rule"]
  bare = static["alibi"] is None and "bias" not in arrays and rule.soft_cap is None
  return rule.scale if bare and rule.scale > 0 else 1.0


def _scores(q, k, arrays, place, length, static, masked=True):
  """Scores, to be multiplied by `_unit`, and the tanh of capped ones."""
  b, h, rows, keys = place
  rule, one = static["rule"], triton.span(0, 1)
  row, column = rows[:, None], keys[None]
  scores = static["product"](q, k, 1, 1)
  if _unit(arrays, static) == 1.0:
    scores = scores * rule.scale
  if static["alibi"] is not None:
    lag = jnp.abs(row + static["alibi"] - column).astype(jnp.float32)
    scores = scores - arrays["slopes"][h] * lag
  elif "bias" in arrays:
    ref = arrays["bias"]
    bias = triton.load(ref, *(0 if ref.shape[n] == 1 else (b, h)[n] for n in (0, 1)), rows, keys)
    scores = scores + bias.astype(jnp.float32)
  bent = None
  if rule.soft_cap is not None:
    bent = jnp.tanh(scores / rule.soft_cap)
    scores = rule.soft_cap * bent
  if not masked:
    return scores, bent
  seen = column < length
  if static["mask"] is not None:
    mask: masks.Mask = masks.with_leaves(  # type: ignore[assignment]
      static["mask"],
      row=[ref[b] for ref in arrays["row"]],
      query=[triton.load(ref, b, rows, one) for ref in arrays["query"]],
      key=[triton.load(ref, b, one, keys) for ref in arrays["key"]],
    )
    seen = seen & mask.sees(row, column)
  return jnp.where(seen, scores, -jnp.inf), bent
