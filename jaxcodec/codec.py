"""A codec as a value, and what one does with it inside JAX.

Everything here is traceable: `jax.jit`, `jax.vmap`, `jax.grad` and meshes apply from outside.
"""

import dataclasses
import hashlib
import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.audio.encodec import Encodec, ScaledCodes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Codec:
  """A network and its weights: an immutable pytree whose leaves are the arrays.

  Attributes:
    module: the Linen module, static.
    params: its parameters, nested dicts of arrays.
    prior: int32 `[Q, K]`, how often training data used each code; the entropy coder starts from it.
    name: what a file calls this codec.
  """

  module: Encodec = dataclasses.field(metadata={"static": True})
  params: Any
  prior: jax.Array
  name: str = dataclasses.field(metadata={"static": True})

  @property
  def sample_rate(self) -> int:
    """Hz."""
    return self.module.sample_rate

  @property
  def channels(self) -> int:
    return self.module.channels

  @property
  def hop_length(self) -> int:
    """Samples per frame of codes."""
    return self.module.hop_length

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    """Entries of each codebook at the highest rate."""
    return self.module.codebook_sizes

  @property
  def bitrates(self) -> tuple[int, ...]:
    """Rates on offer in bit/s, before entropy coding, rising."""
    return self.module.bitrates

  @property
  def streams(self) -> bool:
    """Whether `encode_chunk` and `decode_chunk` work: the network is causal."""
    return self.module.streams


class StreamState(NamedTuple := __import__("typing").NamedTuple):
  """What a stream remembers between chunks."""

  encoder: Any
  decoder: Any
