"""Lyra's own packets: a frame's codes and nothing else, of a size that tells the rate.

A packet holds the first 16, 30 or 46 codes of a frame, four bits each, the first stage in the
highest bits of the first byte: 8, 15 or 23 bytes. Packets of a recording stand one after another.
Source: github.com/google/lyra, lyra/residual_vector_quantizer.cc and lyra/packet.h.
"""

import numpy as np

from jaxcodec.entropy import bits
from jaxcodec.errors import CodecError

STAGES = (16, 30, 46)
_BITS = 4


def packet_bytes(num_codebooks: int) -> int:
  """Bytes of a packet with that many codes.

  Raises:
    ValueError: if Lyra has no such packet.
  """
  if num_codebooks not in STAGES:
    raise ValueError(f"a packet holds 16, 30 or 46 codes, not {num_codebooks}")
  return num_codebooks * _BITS // 8


def pack_packets(codes: np.ndarray) -> bytes:
  """Codes [frames, 16, 30 or 46] in 0..15 as packets.

  Raises:
    ValueError: if the shape or a code does not fit.
  """
  codes = np.asarray(codes)
  if codes.ndim != 2:
    raise ValueError(f"codes of a recording are [frames, codebooks], not {codes.shape}")
  packet_bytes(codes.shape[1])
  return bits.pack(codes, (_BITS,) * codes.shape[1])


def unpack_packets(data: bytes, num_codebooks: int) -> np.ndarray:
  """The int32 codes [frames, num_codebooks] of packets.

  Raises:
    ValueError: if Lyra has no packet of that many codes.
    CodecError: if `data` ends within a packet.
  """
  size = packet_bytes(num_codebooks)
  if len(data) % size:
    raise CodecError(f"{len(data)} bytes are no whole number of packets of {size} bytes")
  return bits.unpack(data, (len(data) // size, num_codebooks), (_BITS,) * num_codebooks)
