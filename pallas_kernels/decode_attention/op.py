"""One query step over a paged cache of 1 to 8 bit keys and values, dequantized on chip.

On TPU and on one CPU each page is read once, as its codes. Elsewhere pages are gathered and
dequantized.
Numerics: scores and softmax in float32; on TPU, products of bfloat16 queries in bfloat16.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import checks
from pallas_kernels.attention.reference import Rule
from pallas_kernels.backend import GPU, WithGpu, interpret
from pallas_kernels.decode_attention import cpu, gpu, reference, tpu
from pallas_kernels.decode_attention.pages import Pages, check
from pallas_kernels.dispatch import dispatch


def decode_attention(
  q: jax.Array,
  pages: Pages,
  page_table: jax.Array,
  lengths: jax.Array,
  *,
  scale: float | None = None,
  soft_cap: float | None = None,
  backend: WithGpu | None = None,
) -> jax.Array:
  """Softmax attention of each row's query to its first `lengths[b]` tokens; no gradient.

  A row of length 0 gets 0; a length beyond the table means all of it. An index that is no page's
  is taken as the nearest that is: nothing is read out of bounds. On TPU a page is one step of the
  grid: 256 tokens or more keep it busy.

  Args:
    q: `[B, H, D]`, float32 or bfloat16; H is a multiple of the pages' heads.
    pages: see `Pages` and `quantize_pages`.
    page_table: int `[B, pages per row]`, indices of pages in the order of their tokens.
    lengths: int `[B]`, tokens in the cache.
    scale: of the products; D ** -0.5 if None.
    soft_cap: scores are cap * tanh(score / cap); None for none.
    backend: None picks one for each platform, see `pallas_kernels.dispatch`.

  Returns:
    `[B, H, D]` in the type of `q`.

  Raises:
    ValueError: if shapes or types do not fit.
  """
  check(pages)
  checks.floating(q=q)
  checks.integers(page_table=page_table, lengths=lengths)
  _, heads, _, features = pages.k_words.shape
  if q.ndim != 3 or q.shape[2] != features or q.shape[1] % heads:
    raise ValueError(f"queries {q.shape} do not fit pages of {heads} heads, {features} features")
  if page_table.ndim != 2 or page_table.shape[0] != q.shape[0] or lengths.shape != q.shape[:1]:
    raise ValueError(
      f"queries {q.shape} need a table [{q.shape[0]}, pages] and lengths [{q.shape[0]}],"
      f" got {page_table.shape} and {lengths.shape}"
    )
  if soft_cap is not None and soft_cap <= 0:
    raise ValueError(f"soft_cap must be positive, got {soft_cap}")
  rule = Rule(features**-0.5 if scale is None else float(scale), soft_cap)
  page_table, lengths = page_table.astype(jnp.int32), lengths.astype(jnp.int32)
  if 0 in (*q.shape, *page_table.shape):
    return jnp.zeros_like(q)
  if backend is None:
    return dispatch(q, *pages, page_table, lengths, **_forms(rule))[0]
  if backend == "reference":
    return reference.decode_attention(q, pages, page_table, lengths, rule=rule)
  if backend in GPU:
    how = GPU[backend]
    return gpu.decode_attention(q, pages, page_table, lengths, rule=rule, interpret=how)
  how = interpret(backend, WithGpu)
  return tpu.decode_attention(q, pages, page_table, lengths, rule=rule, interpret=how)


@functools.cache
def _forms(rule):
  def form(module):
    def run(q, *arrays):
      pages, table, lengths = Pages(*arrays[:-2]), *arrays[-2:]
      return (module.decode_attention(q, pages, table, lengths, rule=rule),)

    return run

  return {"tpu": form(tpu), "gpu": form(gpu), "cpu": form(cpu), "plain": form(reference)}
