"""A codec as a value, and what one does with it inside JAX.

Everything here is traceable: `jax.jit`, `jax.vmap`, `jax.grad` and meshes apply from outside.
"""

import dataclasses
import hashlib
import json
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.audio.encodec import Encodec, ScaledCodes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Codec:
  """A network and its weights: an immutable pytree whose leaves are the arrays.

  Attributes:
    module: the Linen module, static.
    params: its parameters, nested dicts of arrays.
    prior: int32 `[Q, K]`, how often training data used each code; the entropy coder starts from it.
    name: what a file calls this codec.
  """

  module: Encodec = dataclasses.field(metadata={"static": True})
  params: Any
  prior: jax.Array
  name: str = dataclasses.field(metadata={"static": True})

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
  def streams(self) -> bool:
    """Whether `encode_chunk` and `decode_chunk` work: the network is causal."""
    return self.module.streams


class StreamState(NamedTuple):
  """What a stream remembers between chunks; None before the first one where that one is special."""

  encoder: Any
  decoder: Any


def encode(codec: Codec, x: jax.Array, *, bitrate: int | None = None) -> jax.Array | ScaledCodes:
  """Codes of a signal.

  Args:
    codec: what `jaxcodec.load` returned.
    x: floating `[batch, time, channels]` in [-1, 1] at `codec.sample_rate`; any length.
    bitrate: one of `codec.bitrates` in bit/s; None for the highest. Static under jit.

  Returns:
    int32 `[batch, frames, codebooks]`; for a codec that normalises loudness, `ScaledCodes` of
    these and of float32 scales `[batch, segments]`.

  Raises:
    ValueError: if the shape, the type or the bitrate does not fit the codec.
  """
  x = _signal(codec, x)
  num_codebooks = _num_codebooks(codec, bitrate)
  if x.shape[1] == 0:
    codes = jnp.zeros((x.shape[0], 0, num_codebooks), jnp.int32)
    return ScaledCodes(codes, jnp.zeros((x.shape[0], 0))) if codec.module.normalize else codes
  return _apply(codec, "encode", x, num_codebooks)


def decode(codec: Codec, codes: jax.Array | ScaledCodes, *, length: int | None = None) -> jax.Array:
  """The signal of codes that `encode` returned.

  Args:
    codes: `[batch, frames, codebooks]`, of as many codebooks as they were encoded with; an entry
      outside its codebook counts as zero. `ScaledCodes` for a codec that normalises loudness.
    length: samples to return, at most `frames * hop_length`; None for all. Static under jit.

  Returns:
    float32 `[batch, time, channels]`.

  Raises:
    ValueError: if the shape, the type or the length does not fit.
  """
  if codec.module.normalize != isinstance(codes, ScaledCodes):
    needs = "ScaledCodes" if codec.module.normalize else "an array of codes"
    raise ValueError(f"codec {codec.name} decodes {needs}, got {type(codes).__name__}")
  array = _codes(codec, codes.codes if isinstance(codes, ScaledCodes) else codes)
  if array.shape[1] == 0:
    y = jnp.zeros((array.shape[0], 0, codec.channels))
  else:
    codes = codes._replace(codes=array) if isinstance(codes, ScaledCodes) else array
    y = _apply(codec, "decode", codes)
  if length is not None and not 0 <= length <= y.shape[1]:
    raise ValueError(f"length {length} of a signal of {y.shape[1]} samples")
  return y[:, :length]


def init_stream(codec: Codec, batch: int = 1) -> StreamState:
  """State before a signal's first chunk, for `encode_chunk` and `decode_chunk`.

  Raises:
    ValueError: if the codec is not causal.
  """
  _require_streaming(codec)
  if not codec.module.pads_with_zeros:
    return StreamState(None, None)
  x = jax.ShapeDtypeStruct((batch, codec.hop_length, codec.channels), jnp.float32)
  codes = jax.ShapeDtypeStruct((batch, 1, 1), jnp.int32)
  shapes = StreamState(
    jax.eval_shape(lambda x: _apply(codec, "encode_chunk", x, None, 1, final=True)[1], x),
    jax.eval_shape(lambda c: _apply(codec, "decode_chunk", c, None)[1], codes),
  )
  return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def encode_chunk(
  codec: Codec,
  state: StreamState,
  chunk: jax.Array,
  *,
  bitrate: int | None = None,
  final: bool = False,
) -> tuple[StreamState, jax.Array]:
  """Codes of a signal's next chunk; all chunks together give the codes of the whole.

  Args:
    chunk: `[batch, time, channels]`; unless `final`, time is a multiple of `codec.hop_length`.
    final: whether the signal ends here. Static under jit.

  Raises:
    ValueError: as `encode`, and if the codec is not causal or the chunk's length does not fit.
  """
  _require_streaming(codec)
  chunk = _signal(codec, chunk)
  if not final and (chunk.shape[1] == 0 or chunk.shape[1] % codec.hop_length):
    raise ValueError(f"a chunk of {chunk.shape[1]} samples is no multiple of {codec.hop_length}")
  num_codebooks = _num_codebooks(codec, bitrate)
  if chunk.shape[1] == 0:
    return state, jnp.zeros((chunk.shape[0], 0, num_codebooks), jnp.int32)
  codes, encoder = _apply(codec, "encode_chunk", chunk, state.encoder, num_codebooks, final=final)
  return state._replace(encoder=encoder), codes


def decode_chunk(
  codec: Codec, state: StreamState, codes: jax.Array
) -> tuple[StreamState, jax.Array]:
  """Signal of the next codes: `(state, [batch, frames * hop_length, channels])`."""
  _require_streaming(codec)
  codes = _codes(codec, codes)
  if codes.shape[1] == 0:
    return state, jnp.zeros((codes.shape[0], 0, codec.channels))
  y, decoder = _apply(codec, "decode_chunk", codes, state.decoder)
  return state._replace(decoder=decoder), y


def module_config(module: nn.Module) -> dict[str, Any]:
  """A module's attributes as JSON values."""
  config: dict[str, Any] = {}
  for field in dataclasses.fields(module):
    if field.name not in ("parent", "name"):
      value = getattr(module, field.name)
      config[field.name] = vars(value) if dataclasses.is_dataclass(value) else value
  return config


def fingerprint(codec: Codec) -> bytes:
  """16 bytes that tell codecs apart: of the configuration, the weights and the prior.

  SHA-256 over the configuration as JSON and each array's path, shape and little-endian bytes, in
  the order of the paths; the same on every machine.
  """
  digest = hashlib.sha256(json.dumps(module_config(codec.module), sort_keys=True).encode())
  leaves = jax.tree_util.tree_leaves_with_path({"params": codec.params, "prior": codec.prior})
  named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
  for name in sorted(named):
    array = np.asarray(named[name])
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
    digest.update(array)
  return digest.digest()[:16]


def _apply(codec: Codec, method: str, *args, **kwargs):
  return codec.module.apply({"params": codec.params}, *args, method=method, **kwargs)


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
  most = len(codec.codebook_sizes)
  if codes.ndim != 3 or not 1 <= codes.shape[2] <= most:
    expected = f"[batch, frames, 1 to {most}]"
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


def _require_streaming(codec: Codec) -> None:
  if not codec.streams:
    raise ValueError(f"codec {codec.name} is not causal: it takes a signal whole")
