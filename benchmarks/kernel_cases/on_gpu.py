"""The GPU kernels on a card: whether they are right, and how quick at the sizes of the goals."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pallas_kernels as kernels
from kernel_cases.attention import tokamax_attention
from kernel_cases.vector import normal
from pallas_kernels.nearest_code.op import plain as plain_search
from pallas_kernels.quant_matmul.gpu import MOST_ROWS

# 10^12 products and sums of bfloat16 a second, dense, and 10^9 bytes a second: the maker's figures.
CARDS = {"H200": (989, 4800), "H100": (989, 3352)}
# Calls in one program: launching one takes as long as a short kernel.
CALLS = 10


class Goal(NamedTuple):
  """The kernel is `times` as quick as the quickest of `peers`, by the beginnings of their names.

  Without peers it is a share of the roofline.
  """

  times: float
  peers: tuple[str, ...] = ()


# A kernel that is not quicker than plain JAX is deleted.
STAYS = Goal(1, ("plain JAX",))


class GpuCase(NamedTuple):
  """One size on a card.

  Attributes:
    op, size: what the table's row says.
    forms: for each column a function, with FLOPs and bytes that it cannot do without.
    make: gives the arguments, by form where they differ.
    calls: of one program, each on what the one before gave; 1 where the result has another shape.
    goals: on an H200.
  """

  op: str
  size: str
  forms: dict[str, tuple[Callable, float, float]]
  make: Callable[[str], tuple]
  calls: int = CALLS
  goals: tuple[Goal, ...] = (STAYS,)


def verdicts(case: GpuCase, spent: dict[str, float], share: float | None) -> list[str]:
  """What became of the goals: of the forms' seconds and the kernel's share of the roofline."""
  said = []
  for times, peers in case.goals:
    if not peers:
      if share is None:
        said.append(f"{times:.0%} of the roofline: not known of this card")
      else:
        met = "met" if share >= times else "NOT MET"
        said.append(f"{share:.0%} of the roofline, goal {times:.0%}: {met}")
      continue
    found = {name: t for name, t in spent.items() if name.startswith(peers)}
    if not found or "kernel" not in spent:
      said.append(f"{times:g}x of {' or '.join(peers)}: not measured")
      continue
    name = min(found, key=found.__getitem__)
    reached = found[name] / spent["kernel"]
    met = "met" if reached >= times else "NOT MET"
    said.append(f"{reached:.2f}x of {name}, goal {times:g}x: {met}")
  return said


class Check(NamedTuple):
  """A kernel on small arrays beside its reference.

  Attributes:
    name: what the table's row says.
    function: of `arrays` and `backend`.
    most: how large an error may be.
    arrays: its arguments.
  """

  name: str
  function: Callable
  most: float
  arrays: tuple


def error_of(check: Check, backend: str = "gpu") -> float:
  """The largest difference from the reference, as a share of it or of its root mean square."""
  got, right = (
    np.asarray(jax.jit(functools.partial(check.function, backend=form))(*check.arrays), np.float32)
    for form in (backend, "reference")
  )
  size = np.maximum(np.abs(right), np.sqrt(np.square(right).mean()))
  return float((np.abs(got - right) / np.maximum(size, 1e-30)).max())


def checks() -> list[Check]:
  return [*_search_checks(), *_product_checks(), *_decode_checks(), *_attention_checks()]


def _search_checks():
  whole = np.random.default_rng(0).integers(-3, 4, (2, 1000, 160)).astype(np.float32)
  for scoring in ("float32", "bfloat16", "int8"):
    # Whole numbers have exact scores; with all classes as candidates nothing near is missed.
    f = functools.partial(kernels.nearest_code, scoring=scoring, candidates=128)
    yield Check(f"nearest_code, {scoring}", f, 0, (whole[0], whole[1][:100]))


def _product_checks():
  for bits in (8, 4, 2):
    w = normal(1024, 700, seed=1)
    scale, offset = kernels.affine_range(w, (128, 1), bits=bits)
    words = kernels.quantize_words(w, scale, offset, bits=bits)
    for count, dtype, most in (
      (1, np.float32, 1e-4),
      (70, np.float32, 1e-4),
      (70, jnp.bfloat16, 1e-2),
    ):
      f = functools.partial(kernels.quant_matmul, bits=bits)
      name = f"quant_matmul, {bits} bits, {count} rows, {np.dtype(dtype).name}"
      yield Check(name, f, most, (normal(count, 1024).astype(dtype), words, scale, offset))


def _decode_checks():
  table = np.random.default_rng(1).integers(0, 20, (4, 9)).astype(np.int32)
  lengths = np.array([0, 100, 1000, 9 * 128], np.int32)
  for bits in ((8, 8), (4, 4), (2, 2), (4, 2)):
    make = functools.partial(kernels.quantize_pages, bits=bits, key_group=32, value_group=64)
    pages = jax.jit(make)(normal(20, 128, 2, 128, seed=1), normal(20, 128, 2, 128, seed=2))
    for dtype, most in ((np.float32, 1e-4), (jnp.bfloat16, 3e-2)):
      name = f"decode_attention, {bits} bits, {np.dtype(dtype).name}"
      q = normal(4, 8, 128).astype(dtype)
      yield Check(name, kernels.decode_attention, most, (q, pages, table, lengths))


def _attention_checks():
  ids = np.sort(np.random.default_rng(2).integers(-1, 3, (2, 300)), axis=1).astype(np.int32)
  mask = kernels.Causal() & kernels.Lengths(np.array([300, 200], np.int32))
  masks = {"causal": mask, "arrow": kernels.Arrow(ids, ids), "chunked": kernels.Chunked(64, 1)}
  for name, mask in masks.items():
    for dtype, most in ((np.float32, 1e-4), (jnp.bfloat16, 3e-2)):

      def all_of(q, k, v, backend, mask=mask):
        def loss(q, k, v):
          y = kernels.attention(q, k, v, mask=mask, soft_cap=20.0, backend=backend)
          return jnp.sin(y.astype(jnp.float32)).sum(), y

        grads, y = jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
        return jnp.concatenate([x.astype(jnp.float32).ravel() for x in (y, *grads)])

      arrays = tuple(normal(2, 300, h, 64, seed=h).astype(dtype) for h in (4, 2, 2))
      yield Check(f"attention with gradient, {name}, {np.dtype(dtype).name}", all_of, most, arrays)


def cases() -> list[GpuCase]:
  return [_search(), *(_over_pages(bits) for bits in (8, 4, 2)), *_products(), *_attentions()]


def _random(*shape, dtype=jnp.bfloat16, seed=0):
  return jax.random.normal(jax.random.key(seed), shape, dtype)


def _search() -> GpuCase:
  n, k, d = 1 << 20, 16_384, 256
  work = 2.0 * n * k * d, 2.0 * (n + k) * d + 4 * n

  def in_parts(z, codebook):
    bias = jnp.sum(codebook.astype(jnp.float32) ** 2, axis=-1)

    def part(z):
      product = jnp.matmul(z, codebook.T, preferred_element_type=jnp.float32)
      return jnp.argmin(bias - 2 * product, axis=-1)

    return jax.lax.map(part, z.reshape(-1, 8192, d)).reshape(-1)

  rough = functools.partial(kernels.nearest_code, scoring="bfloat16", backend="gpu")
  forms = {
    "kernel": (rough, *work),
    "plain JAX": (functools.partial(plain_search, metric="l2"), *work),
    "plain JAX, bfloat16, parts of 8192": (in_parts, *work),
  }
  make = lambda form: (_random(n, d), _random(k, d, seed=1))  # noqa: E731
  goals = Goal(0.6), Goal(1.5, ("plain JAX",))
  return GpuCase("nearest_code", f"{n} x {k} x {d}, bfloat16", forms, make, 1, goals)


def _over_pages(bits: int) -> GpuCase:
  batch, tokens, heads, key_heads, d = 16, 8192, 32, 8, 128
  flops = 4.0 * batch * tokens * heads * d
  pages = batch * tokens // 256
  quantize = functools.partial(kernels.quantize_pages, bits=bits, key_group=64, value_group=64)
  page = jax.ShapeDtypeStruct((pages, 256, key_heads, d), jnp.bfloat16)
  packed = sum(x.size * x.dtype.itemsize for x in jax.eval_shape(quantize, page, page))

  def make(form):
    q = _random(batch, heads, d)
    if form.startswith("bfloat16"):
      return q, *(_random(batch, tokens, key_heads, d, seed=seed) for seed in (1, 2))
    cache = jax.jit(quantize)(*(_random(*page.shape, seed=seed) for seed in (1, 2)))
    table = jnp.arange(pages, dtype=jnp.int32).reshape(batch, -1)
    return q, cache, table, jnp.full(batch, tokens, jnp.int32)

  def whole(q, k, v, implementation):
    return jax.nn.dot_product_attention(q[:, None], k, v, implementation=implementation)[:, 0]

  dense = flops, 4.0 * batch * tokens * key_heads * d
  forms = {
    "kernel": (functools.partial(kernels.decode_attention, backend="gpu"), flops, packed),
    "plain JAX": (functools.partial(kernels.decode_attention, backend="reference"), flops, packed),
    "bfloat16 cache, XLA": (functools.partial(whole, implementation="xla"), *dense),
    "bfloat16 cache, cuDNN": (functools.partial(whole, implementation="cudnn"), *dense),
  }
  size = f"{batch} x {tokens} x {heads}/{key_heads} x {d}, {bits} bits"
  goals = (STAYS, Goal(2, ("bfloat16 cache",))) if bits == 4 else (STAYS,)
  return GpuCase("decode_attention", size, forms, make, goals=goals)


def _products() -> list[GpuCase]:
  side, found = 8192, []
  for rows, bits in ((1, 8), (1, 4), (1, 2), (16, 4), (MOST_ROWS, 4)):

    def make(form, rows=rows, bits=bits):
      x = _random(rows, side)
      w = _random(side, side, seed=1)
      if form.startswith("bfloat16"):
        return x, w
      scale, offset = kernels.affine_range(w, (128, 1), bits=bits)
      return x, kernels.quantize_words(w, scale, offset, bits=bits), scale, offset

    flops, ends = 2.0 * rows * side**2, 4.0 * rows * side
    packed = flops, ends + side**2 * bits / 8 + 8 * side**2 / 128
    multiply = functools.partial(kernels.quant_matmul, bits=bits)
    forms = {
      "kernel": (functools.partial(multiply, backend="gpu"), *packed),
      "plain JAX": (functools.partial(multiply, backend="reference"), *packed),
      "bfloat16 weights": (jnp.matmul, flops, ends + 2.0 * side**2),
    }
    size = f"{rows} x {side} x {side}, {bits} bits"
    goals = (STAYS, Goal(2.5, ("bfloat16",))) if (rows, bits) == (1, 4) else (STAYS,)
    found.append(GpuCase("quant_matmul", size, forms, make, goals=goals))
  return found


def _attentions() -> list[GpuCase]:
  batch, steps, features, found = 4, 4096, 128, []
  for heads, key_heads in ((16, 16), (16, 4)):
    flops = 2.0 * batch * heads * steps**2 * features  # Half of the scores, for the causal mask.
    moved = 4.0 * batch * steps * (heads + key_heads) * features

    def make(form, heads=heads, key_heads=key_heads):
      shapes = ((batch, steps, h, features) for h in (heads, key_heads, key_heads))
      # Which Mosaic's kernel is written for.
      dtype = jnp.float16 if "Mosaic" in form else jnp.bfloat16
      return tuple(_random(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes))

    ours = functools.partial(kernels.attention, mask=kernels.Causal())
    theirs = functools.partial(jax.nn.dot_product_attention, is_causal=True)
    forms = {
      "kernel": functools.partial(ours, backend="gpu"),
      "plain JAX": functools.partial(ours, backend="plain"),
      "jax.nn, XLA": functools.partial(theirs, implementation="xla"),
      "cuDNN": functools.partial(theirs, implementation="cudnn"),
      "jax's Pallas, Mosaic": _mosaic,
      "tokamax": functools.partial(tokamax_attention, causal=True),
    }
    if heads == key_heads:
      forms["jax's Pallas, Triton"] = _triton
    size = f"{batch} x {steps} x {heads}/{key_heads} x {features}, causal"
    timed = {name: (f, flops, moved) for name, f in forms.items()}
    goals = STAYS, Goal(0.9, ("jax", "cuDNN", "tokamax"))
    found.append(GpuCase("attention", size, timed, make, goals=goals))

    def slopes(f):
      def loss(q, k, v):
        return f(q, k, v).astype(jnp.float32).sum()

      def run(q, k, v):
        dq, dk, dv = jax.grad(loss, (0, 1, 2))(q, k, v)
        # Of the shape that the next call takes, and of no use without all three.
        return dq + (dk.mean() + dv.mean()).astype(dq.dtype)

      return run

    # One product of three has to be made again: seven for the forward pass' two.
    timed = {name: (slopes(f), 3.5 * flops, 3 * moved) for name, f in forms.items()}
    found.append(GpuCase("attention_gradient", size, timed, make, goals=goals))
  return found


def _triton(q, k, v):
  from jax.experimental.pallas.ops.gpu import attention

  return attention.mha(q, k, v, segment_ids=None, sm_scale=q.shape[-1] ** -0.5, causal=True)


def _mosaic(q, k, v):
  from jax.experimental.pallas.ops.gpu import attention_mgpu

  config = attention_mgpu.TuningConfig(
    block_q=128,
    block_kv=128,
    max_concurrent_steps=2,
    causal=True,
    block_q_dkv=64,
    block_kv_dkv=64,
    block_q_dq=64,
    block_kv_dq=64,
  )
  # It leaves scores as they are.
  return attention_mgpu.attention(q * q.shape[-1] ** -0.5, k, v, config)
