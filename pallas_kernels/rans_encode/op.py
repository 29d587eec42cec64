"""The loop of an encoder by asymmetric numeral systems: N symbols a lane, last to first.

Lanes do not meet; what each writes is packed by the caller. `jaxcodec.functional.rans` says what
states, words and intervals are.

Numerics: integers alone, the same on every platform.
Source: J. Duda, https://arxiv.org/abs/1311.2540; F. Giesen, https://arxiv.org/abs/1402.3392.
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from pallas_kernels.dispatch import dispatch
from pallas_kernels.rans_encode import reference, tpu
from pallas_kernels.rans_encode.reference import Pushed

Backend = Literal["reference", "tpu", "interpret"]
MAX_PRECISION = 16


def rans_encode(
  start: jax.Array, freq: jax.Array, precision: int, *, backend: Backend | None = None
) -> Pushed:
  """Pushes the intervals [start, start + freq) of [0, 2^precision), the last step first.

  Args:
    start, freq: integers `[N, L]`; freq at least 1. Their values are not looked at.
    precision: bits of a probability, 1 to 16.
    backend: None picks one by platform; "interpret" is the TPU kernel on any platform, for tests.

  Returns:
    states `[L]`; words and whether they were written, `[N, L]`.

  Raises:
    ValueError: if shapes or precision do not fit or `backend` is none of these.
  """
  if start.ndim != 2 or start.shape != freq.shape:
    raise ValueError(f"starts {start.shape} and frequencies {freq.shape} must be [N, L] both")
  if not 1 <= precision <= MAX_PRECISION:
    raise ValueError(f"precision must be 1 to {MAX_PRECISION} bits, not {precision}")
  if backend not in (None, *get_args(Backend)):
    raise ValueError(f"backend must be None or one of {get_args(Backend)}, got {backend!r}")
  start, freq = jnp.asarray(start, jnp.uint32), jnp.asarray(freq, jnp.uint32)
  plain = functools.partial(reference.rans_encode, precision=precision)
  kernel = functools.partial(tpu.rans_encode, precision=precision)
  if backend == "reference":
    return plain(start, freq)
  if backend is not None:
    return kernel(start, freq, interpret=backend == "interpret")
  return Pushed(*dispatch(start, freq, plain=plain, tpu=kernel))
