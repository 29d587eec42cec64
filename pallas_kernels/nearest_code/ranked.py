"""The nearest entry by a kernel's search; rough scores are followed by a ranking in float32."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pallas_kernels.nearest_code import reference


def nearest_code(
  z: jax.Array,
  codebook: jax.Array,
  metric: str,
  scoring: str,
  candidates: int,
  search: Callable,
) -> jax.Array:
  """As the reference, int32 [N]; `scoring` and `candidates` as of the op.

  An entry with a NaN makes every code 0, as there. `search(z, codebook, bias, factor, candidates)`
  gives [candidates, N] entries of the least `bias_k + z . e_k`, the product times `factor_n` where
  a factor is given.
  """
  given = z
  z, codebook = z.astype(jnp.float32), codebook.astype(jnp.float32)
  if metric == "cosine":
    codebook = reference.direction(codebook)
  with_bias = metric == "l2"
  if scoring == "float32":
    found = search(-2 * z, codebook, _bias(codebook, with_bias), None, 1)[0]
  else:
    if scoring == "bfloat16":
      rough = codebook.astype(jnp.bfloat16)
      # The bias is of the rounded entry: the score is then the distance between what was rounded,
      # whose error shrinks with the distance.
      bias = _bias(rough.astype(jnp.float32), with_bias)
      shortlist = search((-2 * given).astype(jnp.bfloat16), rough, bias, None, candidates)
    else:
      shortlist = search(*int8_operands(z, codebook, with_bias), candidates)
    found = _nearest_of(z, codebook, jnp.minimum(shortlist, codebook.shape[0] - 1), with_bias)
  return jnp.where(jnp.isnan(codebook).any(), 0, found)


def int8_operands(
  z, codebook, with_bias: bool
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """`(z, codebook, bias, factor)` for `search`: 8 bits, one scale a row and one for all entries.

  The score is divided by the entries' scale, which leaves the order as it is.
  """
  row_scale = jnp.maximum(jnp.abs(z).max(axis=-1, keepdims=True), 1e-30) / 127
  scale = jnp.maximum(jnp.abs(codebook).max(), 1e-30) / 127
  whole = jnp.round(codebook / scale)
  bias = _bias(whole, with_bias) * scale
  return (
    jnp.round(z / row_scale).astype(jnp.int8),
    whole.astype(jnp.int8),
    bias,
    -2 * row_scale[:, 0],
  )


def _bias(codebook, with_bias: bool):
  return jnp.sum(codebook**2, axis=-1) if with_bias else jnp.zeros(codebook.shape[0])


def _nearest_of(z, codebook, shortlist, with_bias: bool):
  """The nearest of the entries `shortlist` [C, N] in float32, [N]; ties to the lowest index."""

  def look(best, codes):
    entries = codebook[codes]
    score = jnp.sum((z - entries) ** 2 if with_bias else -z * entries, axis=-1)
    less = (score < best[0]) | ((score == best[0]) & (codes < best[1]))
    return (jnp.where(less, score, best[0]), jnp.where(less, codes, best[1])), None

  worst = jnp.where(jnp.isnan(z[:, 0]), jnp.nan, jnp.inf)
  last = codebook.shape[0]
  begin = worst, jnp.full_like(worst, last, jnp.int32)
  (_, codes), _ = jax.lax.scan(look, begin, shortlist)
  return jnp.where(codes < last, codes, 0)
