"""Runs that learn to write down speech: their configuration, start and step.

Spectra are masked as by NVIDIA's NeMo, collections/asr/parts/submodules/spectr_augment.py, whose
masks are zeros of a spectrum that is not normalised (https://arxiv.org/abs/1904.08779).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcodec.audio.stateful_conformer import StatefulConformer, objective
from jaxcodec.data.transcribed import Transcribed, Utterance
from jaxcodec.functional.log_mel import HOP, log_mel
from jaxcodec.training import sequences
from jaxcodec.training.config import Adam, BaseRun
from jaxcodec.training.masks import masked
from jaxcodec.training.state import TrainState, plain_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecAugment:
  """Masks of a row's spectrum.

  Attributes:
    band_masks, bands: how many masks over bands, and the widest.
    time_masks, share: how many masks over time, and the widest as a share of a row's frames.
  """

  band_masks: int = 2
  bands: int = 27
  time_masks: int = 10
  share: float = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSpeech(BaseRun):
  """A run; the fields that are not said here are those of `config.BaseRun` and `config.Train`.

  Attributes:
    model: what learns.
    data: what to learn from.
    augment: what is done to it.
  """

  model: StatefulConformer
  data: Transcribed
  optimizer: Adam
  augment: SpecAugment = SpecAugment()
  compute_dtype: Any = jnp.float32
  keep_best: int = 1

  samples_every: ClassVar[int] = 0


def init_state(key, config: TrainSpeech) -> TrainState:
  """The start of a run."""
  # Shapes of weights depend on no length.
  mel = jnp.zeros((1, 9, config.model.config.bands))
  labels = jnp.zeros((1, 1), jnp.int32)
  params = config.model.init(key, mel, jnp.array([9]), labels, 0, 0)["params"]
  return plain_state(params, config.optimizer.transformation(config.num_steps))


def train_step(
  state: TrainState, batch: Utterance, key, *, config: TrainSpeech
) -> tuple[TrainState, dict]:
  """Takes a step under a context that is drawn for all of its rows; see `step.train_step`."""
  context_key, mask_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
  net = config.model.config
  which = jax.random.randint(context_key, (), 0, len(net.lefts))
  context = jnp.asarray(net.lefts)[which], jnp.asarray(net.rights)[which]

  def loss(params, batch: Utterance):
    cast = jax.tree.map(lambda p: p.astype(config.compute_dtype), params)
    length = batch.length // HOP
    mel = augmented(mask_key, log_mel(batch.x, net.bands)[0], length, config.augment)
    run = lambda params: config.model.apply(  # noqa: E731
      {"params": params}, mel, length, batch.labels, *context, rngs={"dropout": dropout_key}
    )
    losses = (jax.checkpoint(run) if config.remat else run)(cast)
    return objective(net, losses), losses

  return sequences.learnt(state, batch, loss, config)


def augmented(key, mel, length, how: SpecAugment):
  """Spectra [B, M, bands] of rows of `length` frames, with masks of zeros."""
  rows, _, bands = mel.shape
  # Drawn at once: every draw is a long program of its own to compile.
  drawn = jax.random.uniform(key, (2, rows, how.band_masks + how.time_masks))
  whole = lambda share, most: jnp.floor(share * (most + 1)).astype(jnp.int32)  # noqa: E731
  widest = min(how.bands, bands)
  place, width = drawn[..., : how.band_masks]
  start = whole(place, bands - widest)
  mel = masked(mel, 2, start, start + whole(width, widest))
  longest = jnp.maximum(1, (how.share * length).astype(jnp.int32))[:, None]
  place, width = drawn[..., how.band_masks :]
  start = whole(place, jnp.maximum(1, length[:, None] - longest))
  return masked(mel, 1, start, start + whole(width, longest))
