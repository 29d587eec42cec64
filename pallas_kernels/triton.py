"""What the GPU kernels share: sizes that are powers of two, and loads and stores of ragged tiles.

The kernels are Pallas' for Triton: it lowers alike in every jax that we support, and its bodies run
interpreted on a CPU. jax calls that backend deprecated since 0.11 and warns when it is lowered.
A kernel sees whole arrays and takes tiles of them by hand, as Triton checks no bounds.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt


def power(size: int, least: int = 16) -> int:
  """The least power of two that holds `size`; a product on tensor cores takes 16 at least."""
  return max(least, 1 << (size - 1).bit_length())


def params(warps: int, stages: int) -> plt.CompilerParams:
  return plt.CompilerParams(num_warps=warps, num_stages=stages)


def span(start, size: int) -> jax.Array:
  """int32 start, start + 1, ..."""
  return start + jax.lax.iota(jnp.int32, size)


def load(ref, *index) -> jax.Array:
  """A tile [rows, columns] of `ref`, zero where an index is beyond the array.

  The index has a number for each dimension but two, which have int32 vectors: rows, then columns.
  """
  place, inside = _place(ref, index)
  return plt.load(ref.at[place], mask=inside, other=jnp.zeros((), ref.dtype))


def store(ref, value: jax.Array, *index) -> None:
  """Writes a tile, but for what lies beyond the array; the index is as of `load`."""
  place, inside = _place(ref, index)
  plt.store(ref.at[place], value.astype(ref.dtype), mask=inside)


def products(interpret: bool) -> Callable:
  """What multiplies in a kernel: `product(a, b, axis_a, axis_b)`, a . b over an axis of each.

  Sums are float32, or int32 of int8. float32 is split in three of the numbers that tensor cores
  take, so errors are those of float32; without them registers overflow. A CPU has no such form.
  """
  exact = jax.lax.Precision.HIGHEST if interpret else jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3

  def product(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    return jax.lax.dot_general(
      a,
      b,
      (((axis_a,), (axis_b,)), ((), ())),
      precision=exact if a.dtype == jnp.float32 else None,
      preferred_element_type=jnp.int32 if a.dtype == jnp.int8 else jnp.float32,
    )

  return product


def fused(interpret: bool) -> Callable:
  """`a * b + c` of float32 in one instruction, which Pallas' compiler makes of nothing else."""
  if interpret:
    return lambda a, b, c: a * b + c
  return lambda *abc: _instruction("fma.rn.f32 $0, $1, $2, $3;", "=f,f,f,f", *abc)


def exp2(interpret: bool) -> Callable:
  """2 to the power of float32 in one instruction; 0 where that would be denormal."""
  if interpret:
    return jnp.exp2
  return lambda x: _instruction("ex2.approx.ftz.f32 $0, $1;", "=f,f", x)


def between(interpret: bool) -> Callable:
  """`1 + c / 2^bits` of the codes c in a field of words, of signed ones `1.5 + c / 2^bits`.

  A code is put where the first bits of a float's fraction are, so nothing has to be converted.
  """

  def numbers(words: jax.Array, bits: int, field: int, signed: bool) -> jax.Array:
    up = 23 - bits * (field + 1)
    words = words << up if up >= 0 else words >> -up
    mask, one = ((1 << bits) - 1) << (23 - bits), 0x3F800000 | (1 << 22 if signed else 0)
    if interpret:
      found = words & mask ^ one
    else:
      # And and exclusive or in one: of two constants the compiler keeps one in a register.
      found = _instruction(f"lop3.b32 $0, $1, {mask}, $2, 0x6a;", "=r,r,r", words, jnp.int32(one))
    return jax.lax.bitcast_convert_type(found, jnp.float32)

  return numbers


def _instruction(asm: str, constraints: str, *args: jax.Array) -> jax.Array:
  shape = jnp.broadcast_shapes(*(x.shape for x in args))
  (found,) = plt.elementwise_inline_asm(
    asm,
    args=[jnp.broadcast_to(x, shape) for x in args],
    constraints=constraints,
    pack=1,
    result_shape_dtypes=[jax.ShapeDtypeStruct(shape, args[0].dtype)],
  )
  return found


def _place(ref, index):
  axes = [axis for axis, x in enumerate(index) if isinstance(x, jax.Array) and x.ndim]
  rows, columns = (index[axis] for axis in axes)
  inside = (rows < ref.shape[axes[0]])[:, None] & (columns < ref.shape[axes[1]])[None]
  place = list(index)
  place[axes[0]] = jnp.broadcast_to(rows[:, None], inside.shape)
  place[axes[1]] = jnp.broadcast_to(columns[None], inside.shape)
  return tuple(place), inside
