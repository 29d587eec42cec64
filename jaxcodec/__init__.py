"""Neural codecs in JAX: signals to discrete codes and small files, and back.

The functions here are what the library promises to keep; the packages below hold the parts.
"""

from jaxcodec.audio.encodec import ScaledCodes as ScaledCodes
from jaxcodec.bitstream import compress as compress
from jaxcodec.bitstream import decompress as decompress
from jaxcodec.codec import (
  Codec as Codec,
)
from jaxcodec.codec import (
  StreamState as StreamState,
)
from jaxcodec.codec import (
  decode as decode,
)
from jaxcodec.codec import (
  decode_chunk as decode_chunk,
)
from jaxcodec.codec import (
  encode as encode,
)
from jaxcodec.codec import (
  encode_chunk as encode_chunk,
)
from jaxcodec.codec import (
  init_stream as init_stream,
)
from jaxcodec.errors import CodecError as CodecError
from jaxcodec.hub.load import bundled as bundled
from jaxcodec.hub.load import load as load
from jaxcodec.hub.native import save as save
