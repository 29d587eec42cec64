"""Neural codecs in JAX: signals to discrete codes and small files, and back.

The functions here are what the library promises to keep; the packages below hold the parts.
"""

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
)
from jaxcodec.errors import CodecError as CodecError
from jaxcodec.hub.load import bundled as bundled, load as load
from jaxcodec.hub.native import save as save
