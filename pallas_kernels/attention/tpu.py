"""Flash attention for TPU: forward, and backward in one kernel for dq and one for dk and dv.

A grid step holds a block of queries and one of keys. In float32 512 x 512 scores are 1 MB, and a
step of the backward kernels has some five such arrays: a third of the 16 MB that a kernel may use
on v5e. Key blocks outside the mask's bounds are neither fetched (the index map stays where it was)
nor computed.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.attention import blocks, masks
from pallas_kernels.attention.reference import Rule
from pallas_kernels.dispatch import shape_like

# The last grid dimension adds up; the others may go to two cores.
ORDER = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"))


def forward(q, k, v, bias, mask, *, rule: Rule, interpret=False):
  """Output and log-sum-exp, as `plain.forward`."""
  plan, side = blocks.plan_of(q, k), blocks.side_of(bias, mask)
  q, k, v = (
    blocks.heads_first(q, plan.rows),
    blocks.heads_first(k, plan.columns),
    blocks.heads_first(v, plan.columns),
  )
  batch, heads, _, features = q.shape
  query, key, specs = blocks.by_query(plan, side, mask, features)
  row = pl.BlockSpec((1, 1, plan.rows, 1), query)
  call = pl.pallas_call(
    functools.partial(_forward_kernel, plan=plan, rule=rule, side=side, mask=masks.bare(mask, 0)),
    out_shape=(
      shape_like(q, q.shape, q.dtype),
      shape_like(q, (*q.shape[:3], 1), jnp.float32),
    ),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(batch, heads, *plan.blocks),
      in_specs=[
        pl.BlockSpec((1, 1, plan.rows, features), query),
        pl.BlockSpec((1, 1, plan.columns, features), key),
        pl.BlockSpec((1, 1, plan.columns, features), key),
        specs,
      ],
      out_specs=(pl.BlockSpec((1, 1, plan.rows, features), query), row),
      scratch_shapes=[
        pltpu.VMEM((plan.rows, 1), jnp.float32),
        pltpu.VMEM((plan.rows, 1), jnp.float32),
        pltpu.VMEM((plan.rows, features), jnp.float32),
      ],
    ),
    compiler_params=ORDER,
    cost_estimate=_cost(plan, q, 2, (q, k, v, q)),
    interpret=interpret,
  )
  y, lse = call(*blocks.scalars(bias, mask), q, k, v, blocks.arrays_of(bias, mask, plan))
  return blocks.heads_third(y, plan.queries), lse[:, :, : plan.queries, 0]


def backward(q, k, v, bias, mask, y, lse, dy, *, rule: Rule, interpret=False):
  """Cotangents, as `plain.backward`."""
  plan, side = blocks.plan_of(q, k), blocks.side_of(bias, mask)
  delta = jnp.sum(y.astype(jnp.float32) * dy.astype(jnp.float32), axis=-1)
  delta = blocks.padded(jnp.moveaxis(delta, 1, 2)[..., None], plan.rows)
  lse = blocks.padded(lse[..., None], plan.rows)
  q, dy = (blocks.heads_first(x, plan.rows) for x in (q, dy))
  k, v = (blocks.heads_first(x, plan.columns) for x in (k, v))
  args = (*blocks.scalars(bias, mask), q, k, v, dy, lse, delta, blocks.arrays_of(bias, mask, plan))
  dq, ds = _backward_queries(args, plan, rule, side, mask, interpret)
  dk, dv = _backward_keys(args, plan, rule, side, mask, interpret)
  dbias = None
  if isinstance(bias, jax.Array):
    axes = tuple(axis for axis in (0, 1) if bias.shape[axis] == 1)
    ds = ds[:, :, : plan.queries, : plan.keys]
    dbias = ds.sum(axes, keepdims=True).astype(bias.dtype)
  dk, dv = (blocks.heads_third(x, plan.keys) for x in (dk, dv))
  return blocks.heads_third(dq, plan.queries), dk, dv, dbias


def _backward_queries(args, plan, rule, side, mask, interpret):
  q = args[2]
  batch, heads, rows, features = q.shape
  query, key, specs = blocks.by_query(plan, side, mask, features)
  block = pl.BlockSpec((1, 1, plan.rows, features), query)
  keys = pl.BlockSpec((1, 1, plan.columns, features), key)
  row = pl.BlockSpec((1, 1, plan.rows, 1), query)
  shapes = [shape_like(q, q.shape, q.dtype)]
  outs = [block]
  if side.dense is not None:
    columns = plan.blocks[1] * plan.columns
    shapes.append(shape_like(q, (batch, heads, rows, columns), jnp.float32))
    outs.append(pl.BlockSpec((1, 1, plan.rows, plan.columns), lambda b, h, i, j, *_: (b, h, i, j)))
  call = pl.pallas_call(
    functools.partial(_queries_kernel, plan=plan, rule=rule, side=side, mask=masks.bare(mask, 0)),
    out_shape=shapes,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(batch, heads, *plan.blocks),
      in_specs=[block, keys, keys, block, row, row, specs],
      out_specs=outs,
      scratch_shapes=[pltpu.VMEM((plan.rows, features), jnp.float32)],
    ),
    compiler_params=ORDER,
    cost_estimate=_cost(plan, q, 3, (*args[2:6], q)),
    interpret=interpret,
  )
  out = call(*args)
  return out if side.dense is not None else (out[0], None)


def _backward_keys(args, plan, rule, side, mask, interpret):
  k = args[3]
  batch, heads, _, features = k.shape
  query, key, specs = blocks.by_key(plan, side, mask)
  block = pl.BlockSpec((1, 1, plan.rows, features), query)
  keys = pl.BlockSpec((1, 1, plan.columns, features), key)
  row = pl.BlockSpec((1, 1, plan.rows, 1), query)
  call = pl.pallas_call(
    functools.partial(_keys_kernel, plan=plan, rule=rule, side=side, mask=masks.bare(mask, 0)),
    out_shape=[shape_like(k, k.shape, k.dtype)] * 2,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(batch, heads, plan.blocks[1], plan.group * plan.blocks[0]),
      in_specs=[block, keys, keys, block, row, row, specs],
      out_specs=[keys, keys],
      scratch_shapes=[pltpu.VMEM((plan.columns, features), jnp.float32)] * 2,
    ),
    compiler_params=ORDER,
    cost_estimate=_cost(plan, args[2], 4, (*args[2:6], k, k)),
    interpret=interpret,
  )
  return call(*args)


def _forward_kernel(
  rows, slopes, q_ref, k_ref, v_ref, arrays, y_ref, lse_ref, top_ref, total_ref, sum_ref, **static
):
  plan = static["plan"]
  b, h, i, j = (pl.program_id(axis) for axis in range(4))

  @pl.when(j == 0)
  def _():
    top_ref[...] = jnp.full_like(top_ref, -jnp.inf)
    total_ref[...] = jnp.zeros_like(total_ref)
    sum_ref[...] = jnp.zeros_like(sum_ref)

  mask = blocks.local_mask(static["mask"], rows, arrays, b)

  @pl.when(blocks.touches(mask, plan, i, j))
  def _():
    v = v_ref[0, 0]
    scores, _ = _scores(q_ref[0, 0], k_ref[0, 0], slopes, arrays, mask, (h, i, j), static)
    before = top_ref[...]
    top = jnp.maximum(before, scores.max(axis=1, keepdims=True))
    # Not -inf - -inf where nothing is seen yet.
    safe = jnp.where(top == -jnp.inf, 0.0, top)
    weights = jnp.exp(scores - safe)
    kept = jnp.exp(before - safe)
    total_ref[...] = kept * total_ref[...] + weights.sum(axis=1, keepdims=True)
    sum_ref[...] = kept * sum_ref[...] + _product(weights.astype(v.dtype), v, 1, 0)
    top_ref[...] = top

  @pl.when(j == plan.blocks[1] - 1)
  def _():
    top, total = top_ref[...], total_ref[...]
    total = jnp.where(total == 0.0, 1.0, total)
    y_ref[0, 0] = (sum_ref[...] / total).astype(y_ref.dtype)
    lse_ref[0, 0] = jnp.where(top == -jnp.inf, 0.0, top) + jnp.log(total)


def _queries_kernel(
  rows, slopes, q_ref, k_ref, v_ref, dy_ref, lse_ref, delta_ref, arrays, dq_ref, *refs, **static
):
  plan = static["plan"]
  ds_ref, sum_ref = refs if len(refs) == 2 else (None, refs[0])
  b, h, i, j = (pl.program_id(axis) for axis in range(4))

  @pl.when(j == 0)
  def _():
    sum_ref[...] = jnp.zeros_like(sum_ref)

  mask = blocks.local_mask(static["mask"], rows, arrays, b)
  touches = blocks.touches(mask, plan, i, j)

  @pl.when(touches)
  def _():
    k = k_ref[0, 0]
    refs = q_ref, k_ref, v_ref, dy_ref, lse_ref, delta_ref
    _, ds = _weights(refs, slopes, arrays, mask, (h, i, j), static)
    if ds_ref is not None:
      ds_ref[0, 0] = ds
    sum_ref[...] += _product(ds.astype(k.dtype), k, 1, 0)

  if ds_ref is not None:

    @pl.when(jnp.logical_not(touches))
    def clear():
      ds_ref[0, 0] = jnp.zeros_like(ds_ref[0, 0])

  @pl.when(j == plan.blocks[1] - 1)
  def _():
    dq_ref[0, 0] = (static["rule"].scale * sum_ref[...]).astype(dq_ref.dtype)


def _keys_kernel(
  rows,
  slopes,
  q_ref,
  k_ref,
  v_ref,
  dy_ref,
  lse_ref,
  delta_ref,
  arrays,
  dk_ref,
  dv_ref,
  dk_sum,
  dv_sum,
  **static,
):
  plan = static["plan"]
  b, head, j, step = (pl.program_id(axis) for axis in range(4))
  h, i = blocks.query_block(plan, head, step)

  @pl.when(step == 0)
  def _():
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

  mask = blocks.local_mask(static["mask"], rows, arrays, b)

  @pl.when(blocks.touches(mask, plan, i, j))
  def _():
    q, dy = q_ref[0, 0], dy_ref[0, 0]
    refs = q_ref, k_ref, v_ref, dy_ref, lse_ref, delta_ref
    weights, ds = _weights(refs, slopes, arrays, mask, (h, i, j), static)
    dv_sum[...] += _product(weights.astype(dy.dtype), dy, 0, 0)
    dk_sum[...] += _product(ds.astype(q.dtype), q, 0, 0)

  @pl.when(step == plan.group * plan.blocks[0] - 1)
  def _():
    dk_ref[0, 0] = (static["rule"].scale * dk_sum[...]).astype(dk_ref.dtype)
    dv_ref[0, 0] = dv_sum[...].astype(dv_ref.dtype)


def _weights(refs, slopes, arrays, mask, place, static):
  """Attention weights of a block, and the cotangent of its scores before the soft cap."""
  q, k, v, dy, lse, delta = (ref[0, 0] for ref in refs)
  scores, bent = _scores(q, k, slopes, arrays, mask, place, static)
  weights = jnp.exp(scores - lse)
  ds = weights * (_product(dy, v, 1, 1) - delta)
  return weights, ds if bent is None else ds * (1 - bent * bent)


def _scores(q, k, slopes, arrays, mask, place, static):
  plan, rule, side = static["plan"], static["rule"], static["side"]
  h, i, j = place
  scores = _product(q, k, 1, 1) * rule.scale
  shape = plan.rows, plan.columns
  row = i * plan.rows + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
  column = j * plan.columns + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
  if side.alibi is not None:
    lag = jnp.abs(row + side.alibi - column).astype(jnp.float32)
    scores = scores - slopes[h] * lag
  elif side.dense is not None:
    scores = scores + arrays["bias"][0, 0].astype(jnp.float32)
  bent = None
  if rule.soft_cap is not None:
    bent = jnp.tanh(scores / rule.soft_cap)
    scores = rule.soft_cap * bent
  seen = None if mask is None else mask.sees(row, column)
  if plan.keys % plan.columns:
    inside = column < plan.keys
    seen = inside if seen is None else seen & inside
  return scores if seen is None else jnp.where(seen, scores, -jnp.inf), bent


def _cost(plan, q, products, arrays):
  """What XLA is told, as if the mask hid nothing and each array were moved once."""
  batch, heads, _, features = q.shape
  scores = batch * heads * plan.queries * plan.keys
  return pl.CostEstimate(
    flops=2 * products * scores * features,
    transcendentals=scores,
    bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
  )


def _product(a, b, axis_a, axis_b):
  precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
  dims = (((axis_a,), (axis_b,)), ((), ()))
  return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)
