"""SemantiCodec: sound as pairs of tokens, one of what it is and one of how it sounds.

The idea: a frozen masked autoencoder gives features of patches of a spectrogram; the nearest of
many k-means centroids is a semantic token. A recurrent network sees each feature beside its
centroid, and codes by one entry of a learnt codebook what the centroid lost: an acoustic token. A
diffusion model turns the pairs back into sound.
Source: Liu et al., https://arxiv.org/abs/2405.00233; github.com/haoheliu/SemantiCodec-inference.
What is different here: windows are cut from the signal before their features are computed, so each
is coded alone; a signal of whole windows or patches has no tokens of silence after it; windows of
sound are exactly as long as their tokens, where the source's vocoder adds 2 ms to each; and the
noise follows from a seed, the same for every window and row, so that codes decode to one signal.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.audio.sound_codec import SoundCodec
from jaxcodec.bottlenecks import VQ, Quantized
from jaxcodec.decoders.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from jaxcodec.encoders.mae import MaeConfig, MaeEncoder
from jaxcodec.functional.log_mel import HOP, kaldi_log_mel
from jaxcodec.layers.recurrent import BidirectionalLSTM
from pallas_kernels import nearest_code

# Of AudioMAE's features over AudioSet, as its program has them.
_MEAN, _SPREAD = -4.2677393, 4.5689974


class SemantiCodec(SoundCodec):
  """A neural sound codec of the SemantiCodec family, at 16 kHz.

  A frame of codes is a pair of tokens. Frames lie column by column of the spectrogram, within one
  from low frequencies to high; those of a column share its time, and `hop_length` is its samples
  over their number.

  Attributes:
    sample_rate, bitrates, num_codebooks: as in `SoundCodec`; 2 codebooks.
    codebook_size: of acoustic tokens.
    semantic_size: of semantic tokens.
    mae: the masked autoencoder.
    stack: 1, 2 or 4 patches of a token: one, two of neighbouring bands, or these at two times.
    lstm_layers: of the acoustic encoder.
    diffusion: the decoder.
  """

  semantic_size: int
  mae: MaeConfig = MaeConfig()
  stack: int = 1
  lstm_layers: int = 4
  diffusion: LatentDiffusionConfig = LatentDiffusionConfig()

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return self.semantic_size, self.codebook_size

  @property
  def hop_length(self) -> int:
    return self.window_length // self.window_frames

  @property
  def fewest_codebooks(self) -> int:
    # Tokens come in pairs.
    return 2

  @property
  def causal(self) -> bool:
    return False

  @property
  def encoder_streams(self) -> bool:
    return False

  @property
  def decoder_streams(self) -> bool:
    return False

  @property
  def window_frames(self) -> int:
    times, bands = self.mae.grid
    return times * bands // self.stack

  @property
  def window_stride(self) -> int:
    return self.window_frames - self.window_frames // 16

  @property
  def window_length(self) -> int:
    """Samples of a window."""
    return self.mae.frames * HOP

  @property
  def signal_width(self) -> int:
    # Of the vocoder, or of the decoder of latents over the samples of a frame of its spectrum.
    config, vocoder = self.diffusion, self.diffusion.vocoder
    spectrum = -(-config.vae.width * config.bands // HOP)
    return max(vocoder.width // 2 ** len(vocoder.strides), spectrum)

  def setup(self):
    if self.stack not in (1, 2, 4) or self.num_codebooks != 2:
      raise ValueError(f"stack={self.stack} is none of 1, 2, 4, or there are not 2 codebooks")
    if self.mae.frames != self.diffusion.frames:
      raise ValueError("mae.frames and diffusion.frames differ: both are those of a window")
    width = self.mae.width * self.stack
    self.encoder = MaeEncoder(self.mae)
    self.quantizer = PairQuantizer(self.semantic_size, self.codebook_size, width, self.lstm_layers)
    self.decoder = LatentDiffusion(self.diffusion)

  def __call__(self, x):
    """[B, T, 1] -> [B, T, 1]; creates every parameter."""
    features, end = self.features(jnp.zeros((x.shape[0], self.window_length, 1)))
    return self.decoder(self.quantizer(features, end)[0])[:, : x.shape[1]]

  def encode(self, x, num_codebooks: int, length=None):
    """As `SoundCodec.encode`; windows one after another, each alone."""
    del length  # What is not there is zero, as the end of a row alone.
    count, size = self.num_frames(x.shape[1]), self.window_length
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), (0, 0)))
    windows = jnp.moveaxis(x.reshape(x.shape[0], -1, size, 1), 1, 0)
    codes = self._mapped("encode_window", windows)
    codes = jnp.moveaxis(codes, 0, 1).reshape(x.shape[0], -1, 2)
    return codes[:, :count, :num_codebooks]

  def decode(self, codes, length=None, key=None):
    """As `SoundCodec.decode`; windows that overlap by a sixteenth, cross-faded.

    Args:
      key: of the noise that the sampler is given; None for that of `diffusion.seed`.
    """
    batch, frames, _ = codes.shape
    size, stride, hop = self.window_frames, self.window_stride, self.hop_length
    count = self.num_windows(frames)
    ends = jnp.full(batch, frames) if length is None else -(-length // hop)
    there = jnp.arange(frames) < ends[:, None]
    codes = jnp.where(there[..., None], codes, -1)
    fill = (count - 1) * stride + size - frames
    codes = jnp.pad(codes, ((0, 0), (0, fill), (0, 0)), constant_values=-1)
    windows = jnp.stack([codes[:, i * stride : i * stride + size] for i in range(count)])
    waves = jnp.moveaxis(self._mapped("decode_window", windows, key), 0, 1)
    # A row has the windows that it would have alone.
    starts = jnp.arange(count) * stride
    present = (starts == 0) | (starts - stride + size < ends[:, None])
    return F.cross_fade(waves, stride * hop, present)[:, : frames * hop]

  def num_windows(self, frames: int) -> int:
    """Windows that codes of so many frames are decoded in."""
    return 1 + max(0, -(-(frames - self.window_frames) // self.window_stride))

  def _mapped(self, method: str, windows, *args):
    """A method over windows, one at a time: memory does not grow with their number."""
    module, variables = self.unbind()
    return jax.lax.map(lambda x: module.apply(variables, x, *args, method=method), windows)

  def encode_window(self, x):
    """[B, window_length, 1] -> int32 [B, window_frames, 2]."""
    return self.quantizer.encode(*self.features(x))

  def decode_window(self, codes, key=None):
    """[B, window_frames, 2] -> [B, window_length, 1]."""
    return self.decoder(self.quantizer.decode(codes), key)

  def features(self, x):
    """`(features [B, window_frames, D], end [B])` of windows; see `PairQuantizer`."""
    mel = spectrogram(x[..., 0], self.mae)
    return self.stacked(mel), self.end(mel)

  def stacked(self, mel):
    """Features of spectrograms [B, T, F], `stack` of neighbouring patches as one."""
    (times, bands), factor = self.mae.grid, self.stack
    along, across = (2 if factor == 4 else 1), (1 if factor == 1 else 2)
    z = self.encoder(mel)
    z = z.reshape(len(z), times // along, along, bands // across, across, -1)
    return z.transpose(0, 1, 3, 2, 4, 5).reshape(len(z), self.window_frames, -1)

  def end(self, mel):
    """Frames of codes until the spectrogram's last row that is not one value, rounded up."""
    # Silence and padding are one number throughout, to the last bit; a deviation would be rounded.
    sounds = mel.max(axis=-1) - mel.min(axis=-1) > 1e-7
    rows = jnp.max(jnp.where(sounds, jnp.arange(1, mel.shape[1] + 1), 0), axis=1)
    return -(-rows * self.window_frames // mel.shape[1])


def spectrogram(x, mae: MaeConfig):
  """What a masked autoencoder is shown of windows [B, T]: [B, frames, bands]."""
  mel, _ = kaldi_log_mel(x - x.mean(axis=1, keepdims=True), mae.bands)
  # The last frames of a window would need samples after it.
  mel = jnp.pad(mel, ((0, 0), (0, mae.frames - mel.shape[1]), (0, 0)))
  return (mel - _MEAN) / (2 * _SPREAD)


class PairQuantizer(nn.Module):
  """Features [B, N, D] to pairs of tokens [B, N, 2], semantic and acoustic, and to a condition.

  The condition [B, N, 2 D] is the acoustic token's entry beside the semantic token's. A row at or
  past the end [B], where all is silence, is -1 for the acoustic encoder, and so is the condition of
  a pair that is not there.

  Attributes:
    semantic_size: centroids.
    acoustic_size: entries of the acoustic codebook.
    features: D.
    lstm_layers: of the acoustic encoder, both ways, each way 2 D wide.
  """

  semantic_size: int
  acoustic_size: int
  features: int
  lstm_layers: int

  def setup(self):
    shape = (self.semantic_size, self.features)
    self.centroids = self.param("centroids", nn.initializers.normal(1.0), shape)
    self.lstm = BidirectionalLSTM(2 * self.features, self.lstm_layers)
    self.project = nn.Dense(self.features, use_bias=False)
    self.acoustic = VQ(self.acoustic_size, self.features)

  def residual(self, features, end):
    """`(semantic tokens [B, N], what acoustic tokens code [B, N, D])`."""
    centroids = jax.lax.stop_gradient(self.centroids)
    tokens = nearest_code(features, centroids)
    pair = jnp.concatenate([features, centroids[tokens]], axis=-1)
    pair = jnp.where(self._sounds(features, end)[..., None], pair, -1)
    return tokens, self.project(self.lstm(pair)[0])

  def encode(self, features, end):
    tokens, rest = self.residual(features, end)
    return jnp.concatenate([tokens[..., None], self.acoustic.encode(rest)], axis=-1)

  def decode(self, codes):
    """The condition."""
    semantic = F.lookup(codes[..., 0], self.centroids)
    acoustic = self.acoustic.decode(codes[..., 1:])
    condition = jnp.concatenate([acoustic, semantic], axis=-1)
    return jnp.where(codes[..., :1] >= 0, condition, -1)

  def __call__(self, features, end) -> tuple[jax.Array, Quantized]:
    """`(condition, what the acoustic bottleneck found)`, for training; `codes` of both tokens."""
    tokens, rest = self.residual(features, end)
    found = self.acoustic(rest, self._sounds(features, end))
    codes = jnp.concatenate([tokens[..., None], found.codes], axis=-1)
    codes = jnp.where(self._sounds(features, end)[..., None], codes, -1)
    semantic = F.lookup(tokens, jax.lax.stop_gradient(self.centroids))
    condition = jnp.concatenate([found.z, semantic], axis=-1)
    condition = jnp.where(codes[..., :1] >= 0, condition, -1)
    return condition, found._replace(codes=codes)

  def _sounds(self, features, end):
    return jnp.arange(features.shape[1]) < end[:, None]
