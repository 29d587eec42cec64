"""Discrete key-value bottleneck: what is seen picks keys, what is learned are their values.

Source: Träuble et al., https://arxiv.org/abs/2207.11240.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks.quantized import Quantized


class KeyValueBottleneck(nn.Module):
  """Each of C heads of a latent finds its nearest key; the output is the mean of their values.

  Made for learning without forgetting: a gradient reaches the chosen values alone. First move the
  keys by `ema_update` on unlabelled data, with `restart_dead_codes` on `inputs`; then leave them
  and train the values by plain gradient descent, without momentum or decay, which would move
  values that nothing chose. No gradient reaches the latent. C log2(num_pairs) bits.

  Attributes:
    num_codebooks: heads C.
    num_pairs: keys, and values, of each head.
    key_features: size of a key.
    value_features: size of a value, and of the output.
    features: size of a latent.
  """

  num_codebooks: int
  num_pairs: int
  key_features: int
  value_features: int
  features: int

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.num_pairs,) * self.num_codebooks

  def setup(self):
    F.check_positive(
      num_codebooks=self.num_codebooks,
      num_pairs=self.num_pairs,
      key_features=self.key_features,
      value_features=self.value_features,
      features=self.features,
    )
    heads, pairs = self.num_codebooks, self.num_pairs
    shape = (heads, self.features, self.key_features)
    self.projection = self.param("projection", _unit_columns, shape)
    normal = nn.initializers.normal(1.0)
    self.codebooks = self.param("codebooks", normal, (heads, pairs, self.key_features))
    zeros = nn.initializers.zeros
    self.values = self.param("values", zeros, (heads, pairs, self.value_features))

  def encode(self, z, allowed=None):
    """Codes: [..., D] -> int32 [..., C]; `allowed` bool [C, J] as of `F.nearest_keys`."""
    heads = F.project_heads(F.check_latents(z, self.features), self.projection)
    return F.nearest_keys(heads, self.codebooks, allowed)

  def decode(self, codes):
    """Means of values: [..., C] -> [..., value_features]."""
    F.check_codes(codes, self.codebook_sizes, self.num_codebooks)
    return F.mean_values(codes, self.values)

  def inputs(self, z, codes):
    """What each head looks up, [C, N, k]; `restart_dead_codes` draws there."""
    del codes  # As every `inputs`; here they say nothing more.
    heads = F.project_heads(F.check_latents(z, self.features), self.projection)
    return jnp.moveaxis(heads.reshape(-1, *heads.shape[-2:]), 1, 0)

  def __call__(self, z, mask=None) -> Quantized:
    """Looks z [..., D] up; `z` of the result is [..., value_features], `loss` is 0.

    `statistics` are of the keys; their counts, summed over training, say which pairs were used.
    """
    z, valid = F.clean_latents(z, self.features, mask)
    heads = jax.lax.stop_gradient(F.project_heads(z, self.projection))
    codes = jnp.where(valid[..., None], F.nearest_keys(heads, self.codebooks), -1)
    rows = heads.reshape(-1, *heads.shape[-2:])
    statistics = jax.vmap(F.code_statistics, in_axes=(1, 1, None))(
      rows, codes.reshape(-1, self.num_codebooks), self.num_pairs
    )
    metrics = F.code_health(statistics.counts)
    values = F.mean_values(codes, self.values)
    return Quantized(values, codes, jnp.zeros(()), metrics, statistics)


def _unit_columns(key, shape):
  """Normal, each column of length 1 over the latent's channels."""
  drawn = jax.random.normal(key, shape)
  return drawn / jnp.sqrt(jnp.sum(drawn**2, axis=1, keepdims=True))
