"""A codec as a value, and what one does with it inside JAX.

Everything here is traceable: `jax.jit`, `jax.vmap`, `jax.grad` and meshes apply from outside.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec import functional as F, pieces
from jaxcodec.audio.encodec import ScaledCodes
from jaxcodec.audio.sound_codec import SoundCodec
from jaxcodec.entropy.learned import LearnedPrior
from jaxcodec.fingerprint import digest
from jaxcodec.image.vqgan import Vqgan

CodecModule = SoundCodec | Vqgan


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Codec:
  """A network and its weights: an immutable pytree whose leaves are the arrays.

  Attributes:
    module: the Linen module, static.
    params: its parameters, nested dicts of arrays.
    prior: int32 `[Q, K]`, how often training data used each code; the entropy coder starts from it.
    name: what a file calls this codec.
    learned: a network that foretells codes, where the codec has one; its files are smaller.
  """

  module: SoundCodec = dataclasses.field(metadata={"static": True})
  params: Any
  prior: jax.Array
  name: str = dataclasses.field(metadata={"static": True})
  learned: LearnedPrior | None = None

  @property
  def sample_rate(self) -> int:
    """Hz."""
    return self.module.sample_rate

  @property
  def channels(self) -> int:
    return self.module.channels

  @property
  def hop_length(self) -> int:
    """Samples per frame of codes."""
    return self.module.hop_length

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    """Entries of each codebook at the highest rate."""
    return self.module.codebook_sizes

  @property
  def bitrates(self) -> tuple[int, ...]:
    """Rates on offer in bit/s, before entropy coding, rising."""
    return self.module.bitrates

  @property
  def causal(self) -> bool:
    """Whether a chunk's codes, and a code's samples, depend on nothing later."""
    return self.module.causal

  @property
  def streams(self) -> bool:
    """Whether `encode_chunk` and `decode_chunk` work."""
    return self.module.streams


class StreamState(NamedTuple):
  """What a stream remembers between chunks; None before the first one where that one is special."""

  encoder: Any
  decoder: Any


def encode(
  codec: Codec, x: jax.Array, *, bitrate: int | None = None, length: jax.Array | None = None
) -> jax.Array | ScaledCodes:
  """Codes of a signal.

  Args:
    codec: what `jaxcodec.load` returned.
    x: floating `[batch, time, channels]` in [-1, 1] at `codec.sample_rate`; any length.
    bitrate: one of `codec.bitrates` in bit/s; None for the highest. Static under jit.
    length: int `[batch]`, the samples of each row, for rows that are padded to one shape; their
      codes are those of each row alone, and -1 after its end. `ScaledCodes` then have the frames of
      whole segments, -1 where there are none. None: all rows are `time` long.

  Returns:
    int32 `[batch, frames, codebooks]`; for a codec that normalises loudness, `ScaledCodes` of
    these and of float32 scales `[batch, segments]`.

  Raises:
    ValueError: if the shape, the type or the bitrate does not fit the codec.
  """
  x = _signal(codec, x)
  length = _lengths(length, x.shape[0])
  num_codebooks = _num_codebooks(codec, bitrate)
  if x.shape[1] == 0:
    codes = jnp.zeros((x.shape[0], 0, num_codebooks), jnp.int32)
    return ScaledCodes(codes, jnp.zeros((x.shape[0], 0))) if codec.module.scaled else codes
  x = F.absent_as_zero(x, length)
  codes = pieces.encode(codec.module, codec.params, x, num_codebooks, length)
  if length is None or isinstance(codes, ScaledCodes):
    return codes
  there = jnp.arange(codes.shape[1]) < -(-length // codec.hop_length)[:, None]
  return jnp.where(there[..., None], codes, -1)


def decode(
  codec: Codec, codes: jax.Array | ScaledCodes, *, length: int | jax.Array | None = None
) -> jax.Array:
  """The signal of codes that `encode` returned.

  Args:
    codes: `[batch, frames, codebooks]`, of as many codebooks as they were encoded with; an entry
      outside its codebook counts as zero. `ScaledCodes` for a codec that normalises loudness.
    length: samples to return, at most `frames * hop_length`; None for all. Static under jit. An
      int array `[batch]` gives the samples of each row: zeros follow them, and nothing is cut.

  Returns:
    float32 `[batch, time, channels]`.

  Raises:
    ValueError: if the shape, the type or the length does not fit.
  """
  if codec.module.scaled != isinstance(codes, ScaledCodes):
    needs = "ScaledCodes" if codec.module.scaled else "an array of codes"
    raise ValueError(f"codec {codec.name} decodes {needs}, got {type(codes).__name__}")
  array = _codes(codec, codes.codes if isinstance(codes, ScaledCodes) else codes)
  rows = None if length is None or jnp.ndim(length) == 0 else _lengths(length, array.shape[0])
  if array.shape[1] == 0:
    y = jnp.zeros((array.shape[0], 0, codec.channels))
  else:
    codes = codes._replace(codes=array) if isinstance(codes, ScaledCodes) else array
    y = pieces.decode(codec.module, codec.params, codes, rows)
  if rows is not None:
    return F.absent_as_zero(y, rows)
  if length is not None and not 0 <= length <= y.shape[1]:
    raise ValueError(f"length {length} of a signal of {y.shape[1]} samples")
  return y[:, :length]


def init_stream(codec: Codec, batch: int = 1) -> StreamState:
  """State before a signal's first chunk, for `encode_chunk` and `decode_chunk`.

  Raises:
    ValueError: if the codec takes signals and codes only whole.
  """
  _require_streaming(codec, codec.module.encoder_streams or codec.module.decoder_streams)
  if not codec.module.pads_with_zeros:
    return StreamState(None, None)
  leaves, structure = jax.tree.flatten(codec.params)
  types = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
  shapes = _state_shapes(codec.module, structure, types, batch)
  return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


@functools.lru_cache(maxsize=64)
def _state_shapes(module: SoundCodec, structure, types, batch: int) -> StreamState:
  """Shapes of a stream's state: traced once, as tracing takes longer than coding a second does."""
  x = jax.ShapeDtypeStruct((batch, module.hop_length, module.channels), jnp.float32)
  codes = jax.ShapeDtypeStruct((batch, 1, 1), jnp.int32)

  def states(params, x, codes):
    apply = functools.partial(module.apply, {"params": params}, final=False)
    encoder = apply(x, None, 1, method="encode_chunk")[1]
    return StreamState(encoder, apply(codes, None, method="decode_chunk")[1])

  return jax.eval_shape(states, jax.tree.unflatten(structure, types), x, codes)


def reset_stream(codec: Codec, state: StreamState, rows: jax.Array) -> StreamState:
  """Lets new signals start in some rows of a batch, while the others go on.

  Args:
    rows: bool `[batch]`, true where a new signal starts with the next chunk. For a codec that
      reflects the signal at its start that chunk must be as long as a first one.

  Raises:
    ValueError: if the codec is not causal: then the rows of a batch start and end together.
  """
  _require_streaming(codec, codec.streams)
  if not codec.causal:
    raise ValueError(f"codec {codec.name} is not causal: rows of a batch start together")

  def reset(leaf):
    return jnp.where(rows.reshape(-1, *(1,) * (leaf.ndim - 1)), jnp.zeros((), leaf.dtype), leaf)

  rows = jnp.asarray(rows, bool)
  return jax.tree.map(reset, state)


def encode_chunk(
  codec: Codec,
  state: StreamState,
  chunk: jax.Array,
  *,
  bitrate: int | None = None,
  final: bool = False,
  length: jax.Array | None = None,
) -> tuple[StreamState, jax.Array]:
  """Codes of a signal's next chunk; all chunks together give the codes of the whole.

  A codec that is not causal answers late: the first chunk gives fewer frames than it has, the
  final one the rest.

  Args:
    chunk: `[batch, time, channels]`; unless `final`, time is a multiple of `codec.hop_length`.
    final: whether the signal ends here. Static under jit.
    length: int `[batch]`, for a final chunk that is padded to some shape: the samples of each row.
      The last `(time - length) // hop_length` frames then have no meaning.

  Raises:
    ValueError: as `encode`, and if the codec takes a signal only whole or the chunk's length does
      not fit.
  """
  _require_streaming(codec, codec.module.encoder_streams)
  chunk = _signal(codec, chunk)
  if not final and (chunk.shape[1] == 0 or chunk.shape[1] % codec.hop_length):
    raise ValueError(f"a chunk of {chunk.shape[1]} samples is no multiple of {codec.hop_length}")
  num_codebooks = _num_codebooks(codec, bitrate)
  if chunk.shape[1] == 0 and codec.causal:
    return state, jnp.zeros((chunk.shape[0], 0, num_codebooks), jnp.int32)
  length = _lengths(length, chunk.shape[0], final)
  chunk = F.absent_as_zero(chunk, length)
  codes, encoder = pieces.encode_chunk(
    codec.module,
    codec.params,
    chunk,
    state.encoder,
    num_codebooks,
    final=final,
    length=length,
  )
  return state._replace(encoder=encoder), codes


def decode_chunk(
  codec: Codec,
  state: StreamState,
  codes: jax.Array,
  *,
  final: bool = False,
  length: jax.Array | None = None,
) -> tuple[StreamState, jax.Array]:
  """Signal of the next codes: `(state, [batch, time, channels])`.

  Of a causal codec time is `frames * hop_length`; any other answers late, as in `encode_chunk`.

  Args:
    final: whether the codes end here; a causal codec need not be told. Static under jit.
    length: int `[batch]`, for final codes that are padded to some shape: the frames of each row.
      The last `(frames - length) * hop_length` samples then have no meaning.
  """
  _require_streaming(codec, codec.module.decoder_streams)
  codes = _codes(codec, codes)
  if codes.shape[1] == 0 and codec.causal:
    return state, jnp.zeros((codes.shape[0], 0, codec.channels))
  length = _lengths(length, codes.shape[0], final)
  y, decoder = pieces.decode_chunk(
    codec.module, codec.params, codes, state.decoder, final=final, length=length
  )
  return state._replace(decoder=decoder), y


def fingerprint(codec: Codec) -> bytes:
  """16 bytes that tell codecs apart: of the configuration, the weights and the prior's counts."""
  return digest(codec.module, {"params": codec.params, "prior": codec.prior})


def _signal(codec: Codec, x) -> jax.Array:
  x = jnp.asarray(x)
  if x.ndim != 3 or x.shape[2] != codec.channels:
    expected = f"[batch, time, {codec.channels}]"
    raise ValueError(f"codec {codec.name} takes {expected}, got shape {x.shape}")
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f"the signal must be floating, within [-1, 1]; got {x.dtype}")
  return x.astype(jnp.float32)


def _codes(codec: Codec, codes) -> jax.Array:
  codes = jnp.asarray(codes)
  fewest, most = codec.module.fewest_codebooks, len(codec.codebook_sizes)
  if codes.ndim != 3 or not fewest <= codes.shape[2] <= most:
    expected = f"[batch, frames, {fewest} to {most}]"
    raise ValueError(f"codes of codec {codec.name} are {expected}, got shape {codes.shape}")
  if not jnp.issubdtype(codes.dtype, jnp.integer):
    raise ValueError(f"codes must be integers, got {codes.dtype}")
  return codes


def _num_codebooks(codec: Codec, bitrate: int | None) -> int:
  if bitrate is None:
    return len(codec.codebook_sizes)
  if bitrate not in codec.bitrates:
    offered = ", ".join(str(rate) for rate in codec.bitrates)
    raise ValueError(f"codec {codec.name} has no bitrate {bitrate} bit/s; it has {offered}")
  return codec.module.num_active(bitrate)


def _lengths(length, batch: int, final: bool = True):
  if length is None:
    return None
  if not final:
    raise ValueError("length is given for a chunk that is not final")
  length = jnp.asarray(length)
  if length.shape != (batch,) or not jnp.issubdtype(length.dtype, jnp.integer):
    raise ValueError(f"length must be integers [{batch}], got {length.dtype}{list(length.shape)}")
  return length


def _require_streaming(codec: Codec, streams: bool) -> None:
  if not streams:
    raise ValueError(f"codec {codec.name} sees all of a signal at once: it takes it whole")
