"""What a bottleneck returns in training."""

from typing import NamedTuple

import jax

from jaxcodec.functional import CodeStatistics


class Quantized(NamedTuple):
  """A bottleneck's output. Losses are float32 scalars without weights.

  A row that is masked or not finite has codes of -1 and a `z` of zeros, and neither a loss nor the
  statistics know it.

  Attributes:
    z: quantized latents, with the gradient that the bottleneck defines.
    codes: int32, codebooks last; -1 where a stage was dropped or a row does not count.
    loss: what pulls the encoder to the codebooks.
    metrics: scalars to log, see `functional.code_health`.
    statistics: for `functional.ema_update`, where moving averages may train the codebooks; None
      where they cannot.
    codebook_loss: what pulls the codebooks to the encoder, where gradients may train them. Where
      both stand, use one: add this loss, or write the codebooks from the statistics.
    entropy_loss: low where single codes are certain and all of them are used; None where codes
      have no probabilities.
    bits: float32 without the features of `z`: estimated bits of each latent, with a gradient; None
      where every code costs the same.
  """

  z: jax.Array
  codes: jax.Array
  loss: jax.Array
  metrics: dict[str, jax.Array]
  statistics: CodeStatistics | None = None
  codebook_loss: jax.Array | None = None
  entropy_loss: jax.Array | None = None
  bits: jax.Array | None = None
