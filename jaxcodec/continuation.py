"""Sound that goes on: a prompt's codes, continued by a language model, as sound again."""

import math

import jax

from jaxcodec import codec as codec_lib
from jaxcodec.audio import code_lm
from jaxcodec.codec import Codec
from jaxcodec.hub.code_lm import LoadedLm


def continue_sound(
  codec: Codec,
  lm: LoadedLm,
  x: jax.Array,
  key: jax.Array,
  *,
  seconds: float,
  temperature: float = 1.0,
  top_k: int | None = None,
  guidance: float | None = None,
) -> jax.Array:
  """A signal and what the model makes follow it.

  Args:
    x: float32 `[batch, time, channels]` at the codec's rate; what is less than a frame at its end
      is left out.
    key: of what is drawn.
    seconds: of what follows, rounded up to frames.
    temperature, top_k, guidance: see `code_lm.sample`.

  Returns:
    float32 `[batch, time, channels]`, the prompt as decoded first.

  Raises:
    ValueError: if the codec has no bitrate with the model's codebooks, or its entries are others.
  """
  module, hop = lm.module, codec.hop_length
  fitting = [
    rate for rate in codec.bitrates if codec.module.num_active(rate) == module.num_codebooks
  ]
  sizes = set(codec.codebook_sizes[: module.num_codebooks])
  if not fitting or codec.module.scaled or sizes != {module.codebook_size}:
    raise ValueError(
      f"codec {codec.name} has no bitrate of {module.num_codebooks} codebooks of "
      f"{module.codebook_size} entries, which the model foretells"
    )
  encode = jax.jit(codec_lib.encode, static_argnames="bitrate")
  codes = code_lm.sample(
    module,
    lm.params,
    encode(codec, x[:, : x.shape[1] // hop * hop], bitrate=fitting[0]),
    key,
    frames=max(1, math.ceil(seconds * codec.sample_rate / hop)),
    temperature=temperature,
    top_k=top_k,
    guidance=guidance,
  )
  return jax.jit(codec_lib.decode)(codec, codes)
