"""The loop of a decoder by asymmetric numeral systems: N symbols a lane, first to last.

`jaxcodec.functional.rans` says what states, words and tables are.

Numerics: integers alone, the same on every platform.
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from pallas_kernels.dispatch import dispatch
from pallas_kernels.rans_decode import reference, tpu
from pallas_kernels.rans_encode import MAX_PRECISION

Backend = Literal["reference", "tpu", "interpret"]


def rans_decode(
  words: jax.Array,
  counts: jax.Array,
  states: jax.Array,
  cdf: jax.Array,
  rows: jax.Array,
  precision: int,
  *,
  backend: Backend | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Pops N symbols a lane, each under a row of the tables.

  Args:
    words: uint32 `[L, M]`, of which lane l has `counts[l]`, int32 `[L]`. After its last it reads
      zeros.
    states: uint32 `[L]`.
    cdf: integers `[R, K + 1]`, each row rising from 0 to 2^precision; an entry of an empty interval
      never comes.
    rows: integers `[N, L]`; one that is out of 0..R - 1 is taken as the nearest in it.
    precision: bits of a probability, 1 to 16.
    backend: None picks one by platform: on a TPU the kernel for up to 1024 steps and 4096 bounds;
      "interpret" is that kernel on any platform, for tests.

  Returns:
    `(symbols int32 [N, L], states [L], how many words each lane read int32 [L])`; symbols are in
    0..K - 1 whatever the words are.

  Raises:
    ValueError: if shapes or precision do not fit, or `backend` is none of these or takes no such
      shapes.
  """
  lanes = (rows.shape[-1],) if rows.ndim == 2 else None
  if words.ndim != 2 or words.shape[:1] != lanes or not lanes == counts.shape == states.shape:
    raise ValueError(
      f"words {words.shape}, counts {counts.shape}, states {states.shape} and rows {rows.shape} "
      "must be [L, M], [L], [L] and [N, L]"
    )
  if cdf.ndim != 2 or cdf.shape[0] < 1 or cdf.shape[1] < 2:
    raise ValueError(f"cdf must be [R, K + 1] with R and K >= 1, got shape {cdf.shape}")
  if not 1 <= precision <= MAX_PRECISION:
    raise ValueError(f"precision must be 1 to {MAX_PRECISION} bits, not {precision}")
  if backend not in (None, *get_args(Backend)):
    raise ValueError(f"backend must be None or one of {get_args(Backend)}, got {backend!r}")
  if backend in ("tpu", "interpret") and not tpu.fits(cdf, rows):
    raise ValueError(f"rows {rows.shape} and cdf {cdf.shape} are more than the kernel takes")
  given = (
    jnp.asarray(words, jnp.uint32),
    jnp.asarray(counts, jnp.int32),
    jnp.asarray(states, jnp.uint32),
    jnp.asarray(cdf, jnp.uint32),
    jnp.clip(jnp.asarray(rows, jnp.int32), 0, cdf.shape[0] - 1),
  )
  plain = functools.partial(reference.rans_decode, precision=precision)
  kernel = functools.partial(tpu.rans_decode, precision=precision)
  if backend == "reference":
    return plain(*given)
  if backend is not None:
    return kernel(*given, interpret=backend == "interpret")
  symbols, states, at = dispatch(*given, plain=plain, tpu=kernel if tpu.fits(cdf, rows) else None)
  return symbols, states, at
