"""Long chunks of causal codecs, on a CPU in pieces one after another.

Memory then grows with the signal by its latents and codes alone, and a piece's activations stay in
the cache. A GPU or a TPU gets the whole chunk at once: it needs all of it to be busy.
"""

import functools

import jax
import jax.numpy as jnp

from jaxcodec.audio.sound_codec import SoundCodec

_LEAST_SECONDS = 0.5  # Of a piece of many rows: each piece costs some time of its own.


def encode(module: SoundCodec, params, x, num_codebooks: int, length=None):
  """As `SoundCodec.encode`."""
  if not module.streams:
    return module.apply({"params": params}, x, num_codebooks, length, method="encode")
  return encode_chunk(module, params, x, None, num_codebooks, final=True, length=length)[0]


def decode(module: SoundCodec, params, codes, length=None):
  """As `SoundCodec.decode`."""
  if not module.streams:
    return module.apply({"params": params}, codes, length, method="decode")
  length = None if length is None else -(-length // module.hop_length)
  return decode_chunk(module, params, codes, None, final=True, length=length)[0]


def encode_chunk(
  module: SoundCodec, params, x, state, num_codebooks: int, *, final: bool, length=None
):
  """As `SoundCodec.encode_chunk`."""

  def step(params, x, state, final, length=None):
    call = functools.partial(module.apply, {"params": params}, method="latents_chunk")
    return call(x, state, final=final, length=length)

  z, state = _chunk(module, step, module.hop_length, 0, params, x, state, final, length)
  # All at once: for the few latents of a piece a search has no time to use its codebooks twice.
  return module.apply({"params": params}, z, num_codebooks, method="quantize"), state


def decode_chunk(module: SoundCodec, params, codes, state, *, final: bool, length=None):
  """As `SoundCodec.decode_chunk`."""

  def step(params, codes, state, final, length=None):
    call = functools.partial(module.apply, {"params": params}, method="decode_chunk")
    return call(codes, state, final=final, length=length)

  return _chunk(module, step, 1, -1, params, codes, state, final, length)


def _chunk(module: SoundCodec, step, unit: int, absent, params, x, state, final: bool, length):
  """`step(params, x, state, final, length) -> (y, state)`, in pieces where that pays.

  Args:
    unit: steps of `x` in a frame.
    absent: what fills `x` up where it changes nothing before it.
  """
  whole = functools.partial(step, final=final, length=length)
  fills = module.pads_with_zeros
  frames = -(-x.shape[1] // unit)
  seconds = max(
    module.piece_seconds / max(1, x.shape[0]), min(module.piece_seconds, _LEAST_SECONDS)
  )
  count = round(frames * module.hop_length / (seconds * module.sample_rate))
  if not final:
    # The state is that of the chunk's end, so pieces must fit it; the few shapes in use have such.
    count = next((n for n in range(count, count // 2, -1) if frames % n == 0), 0)
  if not module.causal or count < 2 or (length is not None and not fills):
    return whole(params, x, state)
  ends = final and not fills
  size = -(-frames // count) if fills else frames // count
  num_scanned = count - ends

  def in_pieces(params, x, state):
    if fills:
      fill = count * size * unit - x.shape[1]
      x = jnp.pad(x, ((0, 0), (0, fill), (0, 0)), constant_values=absent)
    parts = x[:, : num_scanned * size * unit]
    parts = parts.reshape(x.shape[0], num_scanned, size * unit, -1).swapaxes(0, 1)
    between = functools.partial(step, params, final=False)
    if state is None:
      _, state = jax.eval_shape(between, parts[0], None)
      state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    state, y = jax.lax.scan(lambda state, part: between(part, state)[::-1], state, parts)
    per_frame = y.shape[2] // size
    y = y.swapaxes(0, 1).reshape(x.shape[0], -1, y.shape[-1])
    if ends:
      last, state = step(params, x[:, num_scanned * size * unit :], state, True)
      y = jnp.concatenate([y, last], axis=1)
    return y[:, : frames * per_frame], state

  return jax.lax.platform_dependent(params, x, state, cpu=in_pieces, default=whole)
