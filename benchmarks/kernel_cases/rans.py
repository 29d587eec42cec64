"""The loops of the coder by asymmetric numeral systems. On a CPU ours is plain JAX itself."""

import functools

import jax
import jax.numpy as jnp

from kernel_cases.case import HostCase, TpuCase
from pallas_kernels import rans_decode, rans_encode


def host_cases() -> list[HostCase]:
  return []


def tpu_cases() -> list[TpuCase]:
  """Steps, lanes, tables, bounds. The work is of vectors, not products: only bytes are a bound."""
  steps, lanes, tables, bounds = 1024, 8192, 1, 257
  by_step = jax.ShapeDtypeStruct((steps, lanes), jnp.uint32)
  lane = by_step.update(shape=(lanes,))
  given = (by_step.update(shape=(lanes, steps)), lane, lane, lane.update(shape=(tables, bounds)))
  size = f"{steps} x {lanes}"
  encode = functools.partial(rans_encode, precision=16)
  decode = functools.partial(rans_decode, precision=16)
  return [
    TpuCase("rans_encode", size, encode, (by_step, by_step), "bfloat16", 0),
    TpuCase("rans_decode", f"{size}, {bounds} bounds", decode, (*given, by_step), "bfloat16", 0),
  ]
