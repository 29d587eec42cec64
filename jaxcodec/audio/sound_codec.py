"""What every sound codec offers to `jaxcodec.codec`; a system's file adds its networks."""

import contextlib
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec.layers.reach import Reach
from jaxcodec.layers.steady import steadily


class SoundCodec(nn.Module):
  """Encoder, bottleneck and decoder of sound: [B, T, channels] <-> int32 [B, F, codebooks].

  A subclass makes `self.encoder`, `self.quantizer` and `self.decoder` in `setup`, the first and the
  last called as layers are (`layers.chain`), and says what follows from its own fields.

  Attributes:
    sample_rate: Hz.
    bitrates: bit/s on offer before entropy coding, rising.
    num_codebooks, codebook_size: codebooks at the highest rate, and entries of each.
  """

  sample_rate: int
  bitrates: tuple[int, ...]
  num_codebooks: int
  codebook_size: int

  @property
  def channels(self) -> int:
    return 1

  @property
  def hop_length(self) -> int:
    """Samples per frame of codes."""
    raise NotImplementedError

  @property
  def smallest(self) -> tuple[int, ...]:
    """Shape of the shortest signal, a frame of samples."""
    return self.hop_length, self.channels

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    """Entries of each codebook at the highest rate."""
    return (self.codebook_size,) * self.num_codebooks

  @property
  def fewest_codebooks(self) -> int:
    """Codebooks without which nothing is decoded."""
    return 1

  @property
  def causal(self) -> bool:
    """Whether no frame depends on later samples, and no sample on later frames."""
    raise NotImplementedError

  @property
  def scaled(self) -> bool:
    """Whether codes come as `ScaledCodes`."""
    return False

  @property
  def encoder_streams(self) -> bool:
    """Whether a signal may come in chunks, with the codes of the whole."""
    return True

  @property
  def decoder_streams(self) -> bool:
    """Whether codes may come in chunks, with the signal of the whole."""
    return True

  @property
  def streams(self) -> bool:
    """Whether both hold."""
    return self.encoder_streams and self.decoder_streams

  @property
  def pads_with_zeros(self) -> bool:
    """Whether zeros after a signal, or dropped codes after codes, change nothing before them.

    A stream then need not know where it ends, and a state of zeros is its start.
    """
    return self.causal

  @property
  def segment_frames(self) -> int:
    """Frames of a whole segment, for a codec that cuts the signal; 0 if it does not."""
    return 0

  @property
  def window_frames(self) -> int:
    """Frames of a window, for a codec that codes each alone and joins their sound; else 0."""
    return 0

  @property
  def window_stride(self) -> int:
    """Frames between windows in decoding, as many as a window or fewer: these are cross-faded."""
    return self.window_frames

  @property
  def signal_width(self) -> int:
    """Channels of the decoder at the signal's rate, which its memory goes by."""
    raise NotImplementedError

  @property
  def steady(self) -> bool:
    """Whether, on a CPU, codes are the same to the last bit however a signal is cut or batched.

    Long sums are then taken in parts (`functional.steady_conv`), which costs wide networks time.
    """
    return False

  @property
  def piece_seconds(self) -> float:
    """Of a causal codec's signal on a CPU: how much of all rows is in work at a time (`pieces`)."""
    return 10.0

  @property
  def decoder_reach(self) -> Reach:
    """Frames that a frame's samples depend on; within a segment, for a codec that has them."""
    raise NotImplementedError

  def num_active(self, bitrate: int) -> int:
    """Codebooks that `bitrate` bit/s pays for."""
    paid = bitrate * self.hop_length / self.sample_rate
    bits = 0.0
    for count, size in enumerate(self.codebook_sizes):
      bits += math.log2(size)
      # Rates on offer are rounded to whole bits per second.
      if bits > paid * 1.01:
        return max(1, count)
    return len(self.codebook_sizes)

  def num_frames(self, num_samples: int) -> int:
    """Frames of a signal of `num_samples`."""
    return -(-num_samples // self.hop_length)

  def __call__(self, x):
    """[B, T, C] -> [B, T, C] through all codebooks; creates every parameter."""
    return self.decode(self.encode(x, len(self.codebook_sizes)))[:, : x.shape[1]]

  def latents(self, x):
    """What the quantizer is given for a whole signal, [B, F, D]; nothing is padded."""
    return self.encoder(x)[0]

  def encoded(self, x, state=None, final: bool = True, length=None):
    """What the quantizer is given for a signal's next part, and the encoder's state after it."""
    with nn.intercept_methods(steadily) if self.steady else contextlib.nullcontext():
      return self.encoder(x, state, final, length)

  def signal(self, z):
    """[B, F, D] -> [B, T, C], as the decoder gives it."""
    return self.decoder(z)[0]

  def encode(self, x, num_codebooks: int, length=None) -> Any:
    """Codes of a whole signal [B, T, C], each row of its own `length` [B] if that is given."""
    return self.encode_chunk(x, None, num_codebooks, final=True, length=length)[0]

  def decode(self, codes, length=None):
    """[B, F, Q] -> [B, F * hop_length, C]; `length` [B] counts the samples of each row."""
    length = None if length is None else -(-length // self.hop_length)
    return self.decode_chunk(codes, None, final=True, length=length)[0]

  def latents_chunk(self, x, state, *, final: bool, length=None):
    """What the quantizer is given for a signal's next part: `([B, F, D], state)`.

    State None at its start, `final` at its end.
    """
    if self.pads_with_zeros or length is not None:
      # At the input and not in every layer, unless a row ends before.
      x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % self.hop_length), (0, 0)))
    length = None if self.pads_with_zeros else length
    return self.encoded(x, state, final, length)

  def quantize(self, z, num_codebooks: int):
    """Codes of what `latents_chunk` returned."""
    return self.quantizer.encode(z, num_codebooks)

  def encode_chunk(self, x, state, num_codebooks: int, *, final: bool, length=None):
    """The next part of a signal: `(codes, state)`."""
    z, state = self.latents_chunk(x, state, final=final, length=length)
    return self.quantize(z, num_codebooks), state

  def decode_chunk(self, codes, state, *, final: bool, length=None):
    """The next part of the codes: `([B, F * hop_length, C], state)`."""
    length = None if self.pads_with_zeros else length
    return self.decoder(self.quantizer.decode(codes), state, final, length)
