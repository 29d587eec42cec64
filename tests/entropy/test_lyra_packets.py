import numpy as np
import pytest

from jaxcodec import CodecError
from jaxcodec.entropy.lyra_packets import pack_packets, unpack_packets


@pytest.mark.parametrize(("stages", "size"), [(16, 8), (30, 15), (46, 23)])
def test_a_packet_is_the_frames_codes_with_the_first_in_the_highest_bits(stages, size):
  codes = np.random.default_rng(stages).integers(0, 16, (5, stages))
  data = pack_packets(codes)
  assert len(data) == 5 * size
  for i, frame in enumerate(codes):
    # lyra/packet.h: one number, the first code in its most significant bits, big-endian.
    number = 0
    for code in frame:
      number = 16 * number + int(code)
    assert data[i * size : (i + 1) * size] == number.to_bytes(size, "big")
  back = unpack_packets(data, stages)
  assert back.dtype == np.int32
  np.testing.assert_array_equal(back, codes)


def test_known_bytes():
  codes = np.zeros((1, 16), np.int32)
  codes[0, :3], codes[0, 15] = (0xA, 0x1, 0xF), 0x7
  assert pack_packets(codes).hex() == "a1f0000000000007"


def test_no_packets_are_no_codes():
  assert pack_packets(np.zeros((0, 30), np.int32)) == b""
  assert unpack_packets(b"", 30).shape == (0, 30)


@pytest.mark.parametrize("length", [1, 7, 9, 22])
def test_bytes_that_end_within_a_packet_are_refused(length):
  with pytest.raises(CodecError, match=f"^{length} bytes are no whole number of packets of 8"):
    unpack_packets(bytes(length), 16)


def test_codes_that_no_packet_holds_are_refused():
  with pytest.raises(ValueError, match="16, 30 or 46 codes, not 17"):
    pack_packets(np.zeros((1, 17), np.int32))
  with pytest.raises(ValueError, match="16, 30 or 46 codes, not 0"):
    unpack_packets(b"", 0)
  with pytest.raises(ValueError, match="does not fit"):
    pack_packets(np.full((1, 16), 16))
  with pytest.raises(ValueError, match=r"\[frames, codebooks\]"):
    pack_packets(np.zeros((1, 1, 16), np.int32))
