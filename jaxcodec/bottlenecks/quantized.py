"""What a bottleneck returns in training."""

from typing import NamedTuple

import jax

from jaxcodec.functional import CodeStatistics


class Quantized(NamedTuple):
  """A bottleneck's output.

  Attributes:
    z: quantized latents, with the gradient that the bottleneck defines.
    codes: int32, codebooks last; -1 where a stage was dropped.
    loss: what pulls the encoder to the codebooks, unweighted.
    metrics: scalars to log.
    statistics: what the train step needs to move the codebooks; None where gradients move them.
    codebook_loss: what pulls the codebooks to the encoder, unweighted; None where statistics do.
  """

  z: jax.Array
  codes: jax.Array
  loss: jax.Array
  metrics: dict[str, jax.Array]
  statistics: CodeStatistics | None = None
  codebook_loss: jax.Array | None = None
