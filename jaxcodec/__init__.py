"""Neural codecs in JAX: signals to discrete codes and small files, and back.

The functions here are what the library promises to keep; the packages below hold the parts. Each is
imported when it is first used, so that importing this package does not wait for jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxcodec.errors import CodecError as CodecError

if TYPE_CHECKING:
  from jaxcodec.audio.encodec import ScaledCodes as ScaledCodes
  from jaxcodec.bitstream import compress as compress, decompress as decompress
  from jaxcodec.codec import (
    Codec as Codec,
    StreamState as StreamState,
    decode as decode,
    decode_chunk as decode_chunk,
    encode as encode,
    encode_chunk as encode_chunk,
    init_stream as init_stream,
    reset_stream as reset_stream,
  )
  from jaxcodec.describe import info as info
  from jaxcodec.entropy.container import join as join
  from jaxcodec.hub.load import bundled as bundled, load as load
  from jaxcodec.hub.native import save as save

_HOMES = {
  "jaxcodec.audio.encodec": ("ScaledCodes",),
  "jaxcodec.bitstream": ("compress", "decompress"),
  "jaxcodec.codec": (
    "Codec",
    "StreamState",
    "decode",
    "decode_chunk",
    "encode",
    "encode_chunk",
    "init_stream",
    "reset_stream",
  ),
  "jaxcodec.describe": ("info",),
  "jaxcodec.entropy.container": ("join",),
  "jaxcodec.hub.load": ("bundled", "load"),
  "jaxcodec.hub.native": ("save",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
  if name not in _HOME:
    raise AttributeError(f"module 'jaxcodec' has no attribute {name!r}")
  value = getattr(importlib.import_module(_HOME[name]), name)
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *_HOME})
