import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from pallas_kernels import (
  Alibi,
  Arrow,
  Causal,
  Chunked,
  Lengths,
  Segments,
  Window,
  alibi_slopes,
  attention,
)
from pallas_kernels.attention import blocks, cpu, masks

B, TQ, TK, H, G, D = 2, 150, 200, 4, 2, 16  # Ragged against blocks of 128.


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ids(seed, length):
  """Sorted segments 0, 1, 2, with padding (-1) at the start of some rows."""
  return np.sort(np.random.default_rng(seed).integers(-1, 3, (B, length)), axis=1).astype(np.int32)


KEY_IDS = ids(0, TK)
QUERY_IDS = np.ascontiguousarray(KEY_IDS[:, :TQ])
MASKS = {
  "causal": Causal(3),
  "window": Window(9, 2, offset=20),
  "chunked": Chunked(16, 2, offset=7),
  "lengths": Lengths(np.array([0, 31], np.int32)),
  "segments": Segments(QUERY_IDS, KEY_IDS),
  "arrow": Arrow(QUERY_IDS, KEY_IDS),
}
MASKS["both"] = MASKS["window"] & MASKS["lengths"]
MASKS["either"] = MASKS["chunked"] & MASKS["causal"] | MASKS["segments"] & MASKS["lengths"]


def by_hand(name, b, i, j):
  """The sight of one query as the docstrings tell it."""
  q, k = QUERY_IDS[b, i], KEY_IDS[b, j]
  see = {
    "causal": j <= i + 3,
    "window": i + 20 - 9 <= j <= i + 20 + 2,
    "chunked": (i + 7) // 16 - 2 <= j // 16 <= (i + 7) // 16,
    "lengths": j < [0, 31][b],
    "segments": q == k != -1,
    "arrow": q != -1 and k != -1 and (q == k or q == 0 or k == 0),
  }
  see["both"] = see["window"] and see["lengths"]
  see["either"] = (see["chunked"] and see["causal"]) or (see["segments"] and see["lengths"])
  return see[name]


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_what_its_docstring_says_and_its_bounds_hold_it(name):
  mask = MASKS[name]
  seen = np.broadcast_to(masks.dense(mask, (0, TQ), (0, TK)), (B, TQ, TK))
  for b, i, j in np.random.default_rng(1).integers(0, (B, TQ, TK), (2000, 3)):
    assert seen[b, i, j] == by_hand(name, b, i, j), (b, i, j)
  known = masks.bare(mask, masks.FAR)
  for start in range(0, TQ, 30):
    low, high = known.keys(start, start + 29)
    assert isinstance(low, int)
    assert not seen[:, start : start + 30, : max(low, 0)].any()
    assert not seen[:, start : start + 30, max(high + 1, 0) :].any()
  for start in range(0, TK, 40):
    low, high = known.queries(start, start + 39)
    assert not seen[:, : max(low, 0), start : start + 40].any()
    assert not seen[:, max(high + 1, 0) :, start : start + 40].any()


@pytest.mark.parametrize("name", MASKS)
def test_all_see_all_within_a_masks_shared_bounds(name):
  mask = MASKS[name]
  seen = np.broadcast_to(masks.dense(mask, (0, TQ), (0, TK)), (B, TQ, TK))
  found = 0
  for b in range(B):
    leaves = {kind: [x[b] for x in of] for kind, of in masks.leaves_by_kind(mask).items()}
    known = masks.with_leaves(mask, **leaves)
    for size in (1, 7, 30):
      for start in range(0, TQ - size, 5):
        ends = start, start + size - 1
        low, high = (int(x) for x in known.shared_keys(*ends))
        block = seen[b, start : start + size, max(low, 0) : max(high + 1, 0)]
        assert block.all(), (b, ends)
        found += block.size
  assert (found == 0) == (name in ("segments", "arrow", "either")), "bounds that never hold"


def test_uni_encoders_example():
  # A history of 3, candidates of 2 and 3, padded to 10: 52 pairs seen, 22 without the history.
  row = np.array([[0, 0, 0, 1, 1, 2, 2, 2, -1, -1]], np.int32)
  assert masks.dense(Arrow(row, row), (0, 10), (0, 10)).sum() == 52
  assert masks.dense(Segments(row, row), (0, 10), (0, 10)).sum() == 22


CASES = {
  "penalty": (MASKS["both"], Alibi(alibi_slopes(H), 20), None, np.float32),
  "capped": (MASKS["either"], normal(1, H, TQ, TK, seed=5), 2.0, np.float32),
  "half": (MASKS["arrow"], None, None, jnp.bfloat16),
}


def inputs(dtype=np.float32):
  q, weights = (normal(B, TQ, H, D, seed=s) for s in (0, 3))
  k, v = (normal(B, TK, H // G, D, seed=s) for s in (1, 2))
  return *(x.astype(dtype) for x in (q, k, v)), weights


def value_and_grads(q, k, v, bias, weights, *, mask, soft_cap, backend, extra=None):
  learned = bias is not None and not isinstance(bias, Alibi)

  def loss(q, k, v, bias):
    y = attention(q, k, v, mask=mask, bias=bias, soft_cap=soft_cap, backend=backend)
    return (y.astype(jnp.float32) * weights).sum(), y

  argnums = (0, 1, 2, 3) if learned else (0, 1, 2)
  grads, y = jax.grad(loss, argnums, has_aux=True)(q, k, v, bias if extra is None else extra)
  return y, *grads


@pytest.mark.parametrize("name", CASES)
def test_kernel_and_blocks_equal_the_definition(name, monkeypatch):
  monkeypatch.setattr(blocks, "BLOCK", 128)
  monkeypatch.setattr(cpu, "FEW_SCORES", 0)  # Head after head; other tests have all together.
  mask, bias, soft_cap, dtype = CASES[name]
  q, k, v, weights = inputs(dtype)

  @jax.jit
  def run(*args):
    f = functools.partial(value_and_grads, mask=mask, soft_cap=soft_cap)
    return [f(*args, backend=backend) for backend in ("reference", "interpret", None)]

  right, *others = run(q, k, v, bias, weights)
  # float32 sums of 200 terms; bfloat16 keeps 8 bits of weights below 1 and of outputs near 4.
  tolerance = 2e-5 if dtype == np.float32 else 6e-2
  for other in others:
    for a, b in zip(right, other, strict=True):
      assert np.isfinite(np.asarray(b, np.float32)).all()
      np.testing.assert_allclose(
        np.asarray(b, np.float32), np.asarray(a, np.float32), atol=tolerance
      )


@pytest.mark.slow
def test_no_block_races_another(monkeypatch, capfd):
  monkeypatch.setattr(blocks, "BLOCK", 128)
  q, k, v, weights = (x[:1, :, :2] for x in inputs())
  k, v = k[:, :, :1], v[:, :, :1]
  bias = Alibi(alibi_slopes(2))
  f = functools.partial(value_and_grads, mask=None, soft_cap=None)
  got, right = jax.jit(
    lambda *args: [f(*args, backend=backend) for backend in ("races", "reference")]
  )(q, k, v, bias, weights)
  for a, b in zip(got, right, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)
  assert "RACE" not in capfd.readouterr().out


def test_gradients_are_slopes():
  q, k, v, weights = (x[:1, :12, :2].astype(np.float32) for x in inputs())
  k, v = k[:, :, :1], v[:, :, :1]
  bias = normal(1, 1, 12, 12, seed=4)

  def loss(args):
    y = attention(*args[:3], bias=args[3], mask=Causal(-1), soft_cap=3.0)  # Query 0 is blind.
    return (y * weights).sum()

  args = q, k, v, bias
  ways = [tuple(normal(*x.shape, seed=10 + s) for x in args) for s in range(3)]

  @jax.jit
  def both(args, way):
    step = 1e-2
    ahead, back = (loss([x + s * d for x, d in zip(args, way, strict=True)]) for s in (step, -step))
    slope = sum((g * d).sum() for g, d in zip(jax.grad(loss)(args), way, strict=True))
    return (ahead - back) / (2 * step), slope

  for way in ways:
    difference, slope = both(args, way)
    np.testing.assert_allclose(slope, difference, rtol=2e-3, atol=2e-3)


def test_a_blind_query_gives_zero_and_no_gradient():
  q, k, v, weights = (x[:1, :12, :2] for x in inputs())
  k, v = k[:, :, :1], v[:, :, :1]
  f = functools.partial(value_and_grads, mask=Lengths(np.zeros(1, np.int32)), soft_cap=None)
  for backend in (None, "interpret"):
    for x in jax.jit(functools.partial(f, backend=backend))(q, k, v, None, weights):
      np.testing.assert_array_equal(x, np.zeros_like(x))


def test_nothing_in_nothing_out():
  q = np.zeros((2, 3, 4, 8), np.float32)
  k = np.zeros((2, 0, 2, 8), np.float32)
  no_keys, no_queries = jax.jit(lambda q, k: (attention(q, k, k), attention(q[:, :0], q, q)))(q, k)
  np.testing.assert_array_equal(no_keys, q)
  assert no_queries.shape == (2, 0, 4, 8)


def test_on_a_mesh_it_is_the_same(mesh):
  q, k, v = (normal(8, 20, 2, 8, seed=s) for s in range(3))
  mask = Causal() & Lengths(np.arange(13, 21, dtype=np.int32))
  place = functools.partial(jax.device_put, device=NamedSharding(mesh, P("data")))
  f = jax.jit(lambda q, k, v, mask: attention(q, k, v, mask=mask))
  right = f(q, k, v, mask)
  got = f(*(place(x) for x in (q, k, v)), jax.tree.map(place, mask))
  assert got.sharding.spec == P("data")
  np.testing.assert_allclose(got, right, atol=1e-6)


def test_in_shard_map_each_device_attends_to_its_rows(mesh, monkeypatch):
  monkeypatch.setattr(cpu, "FEW_SCORES", 0)
  q, k = normal(8, 20, 2, 8), normal(8, 20, 1, 8, seed=1)
  lengths, slopes = np.arange(13, 21, dtype=np.int32), alibi_slopes(2)

  def grads(q, k, lengths, slopes):
    def loss(q, k):
      mask = Causal() & Lengths(lengths)
      return (attention(q, k, k, mask=mask, bias=Alibi(slopes)) ** 2).sum()

    return jax.grad(loss, (0, 1))(q, k)

  rows = P("data")
  mapped = jax.shard_map(grads, mesh=mesh, in_specs=(rows, rows, rows, P()), out_specs=(rows, rows))
  got = jax.jit(mapped)(q, k, lengths, slopes)
  for a, b in zip(got, jax.jit(grads)(q, k, lengths, slopes), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_bad_shapes_are_named():
  q, k = jnp.zeros((2, 5, 4, 8)), jnp.zeros((2, 6, 2, 8))
  for call, message in [
    (lambda: attention(q[0], k, k), r"must be \[B, T, H, D\], got \(5, 4, 8\)"),
    (lambda: attention(q, k[..., :4], k[..., :4]), r"\(2, 6, 2, 4\) do not fit"),
    (lambda: attention(q[:, :, :3], k, k), r"do not fit queries \(2, 5, 3, 8\)"),
    (lambda: attention(q, k, k.astype(jnp.bfloat16)), "one float type"),
    (lambda: attention(q, k, k, bias=jnp.zeros((1, 4, 5, 5))), r"bias \(1, 4, 5, 5\) does not"),
    (lambda: attention(q, k, k, bias=Alibi(jnp.ones(2))), "needs 4 slopes"),
    (lambda: attention(q, k, k, mask=Lengths(jnp.ones(3, int))), r"shape \(2,\), got int32 \(3,\)"),
    (lambda: attention(q, k, k, soft_cap=0.0), "must be positive"),
  ]:
    with pytest.raises(ValueError, match=message):
      call()
