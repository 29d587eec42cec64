"""An encoder-decoder Transformer over codes: it reads frames and foretells those that follow.

A frame's entries are embedded each by its codebook's table and added. The decoder writes codebook q
a frame later than codebook q - 1, so that each code is foretold from all earlier ones of its frame:
the delay pattern of MusicGen, https://arxiv.org/abs/2306.05284, section 2.2. Shapes: B rows, S
frames read, T written, Q codebooks of K entries. -1 stands for a code that is not there.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.layers.encoder_decoder import EncoderDecoderConfig, Stack


class CodeTransformer(nn.Module):
  """Logits of codes, given frames before them and all codes that come earlier.

  Attributes:
    net: the stacks.
    num_codebooks, codebook_size: Q and K.
    remat: see `Stack`.
  """

  net: EncoderDecoderConfig
  num_codebooks: int
  codebook_size: int
  remat: bool = False

  @nn.compact
  def __call__(self, source, target):
    """int32 [B, S, Q] and delayed [B, T, Q] to float32 logits [B, T, Q, K] of `target`."""
    net, size = self.net, self.codebook_size
    shape = (self.num_codebooks, size + 1, net.width)
    tables = self.param("tables", nn.initializers.normal(net.width**-0.5), shape)

    def embedded(codes):
      places = jnp.where(codes < 0, size, codes)
      parts = [tables[q][places[..., q]] for q in range(self.num_codebooks)]
      return sum(parts[1:], parts[0]) * net.width**0.5

    memory = Stack(net, net.encoder_layers, self.remat, name="encoder")(embedded(source))
    before = jnp.pad(target[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=-1)
    y = Stack(net, net.decoder_layers, self.remat, name="decoder")(embedded(before), memory)
    logits = nn.Dense(self.num_codebooks * size, use_bias=False, name="head")(y)
    return logits.reshape(*target.shape, size).astype(jnp.float32)

  def foretell(self, codes, read: int):
    """`(logits, target)` of the frames of codes [B, T, Q] that follow the first `read`."""
    written = codes[:, read:]
    target = F.arranged(written, F.delay_pattern(*written.shape[1:]))
    return self(codes[:, :read], target), target
