"""Runs that learn what kind of sound it is: their configuration, start and step.

The recipe is that of LMUFormer's program, which has it from AST: binary cross-entropy with labels
of two kinds where sounds are mixed, masks over bands and over time, noise, and shifts.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from jaxcodec.audio.lmuformer import LmuFormer, init_params, normalised
from jaxcodec.data.labelled import Example, Labelled
from jaxcodec.functional.log_mel import kaldi_log_mel
from jaxcodec.layers.norms import batch_statistics
from jaxcodec.training import sequences
from jaxcodec.training.config import Adam, BaseRun
from jaxcodec.training.masks import masked
from jaxcodec.training.state import TrainState, plain_state

_MIX = 10  # Both parameters of the Beta distribution that mixes draw from.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
  """What is done to a batch.

  Attributes:
    mixed: share of rows that another one is mixed with, as waves.
    bands, frames: widest masks, of which a row has one each.
    noise: of normalised spectra, uniform from 0 to at most this.
    shift: frames by which a row is turned, either way, at most.
  """

  mixed: float = 0.6
  bands: int = 48
  frames: int = 48
  noise: float = 0.1
  shift: int = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainClassifier(BaseRun):
  """A run; the fields that are not said here are those of `config.BaseRun` and `config.Train`.

  Attributes:
    model: what learns.
    data: what to learn from.
    augment: what is done to it.
    momentum: by which the norms' statistics move towards a batch's.
  """

  model: LmuFormer
  data: Labelled
  optimizer: Adam
  augment: Augment = Augment()
  momentum: float = 0.1
  compute_dtype: Any = jnp.float32
  keep_best: int = 1

  samples_every: ClassVar[int] = 0


def check(config: TrainClassifier) -> None:
  """Raises ValueError for what contradicts itself, naming the fields."""
  if len(config.data.names) != config.model.config.classes:
    raise ValueError(
      f"data.names has {len(config.data.names)} classes, model.config.classes="
      f"{config.model.config.classes}"
    )


def init_state(key, config: TrainClassifier) -> TrainState:
  """The start of a run."""
  params = init_params(config.model.config, key)
  return plain_state(params, config.optimizer.transformation(config.num_steps))


def train_step(
  state: TrainState, batch: Example, key, *, config: TrainClassifier
) -> tuple[TrainState, dict]:
  """Takes a step; see `step.train_step`. Statistics of norms are of each part of the batch."""
  key = jax.random.fold_in(key, state.step)

  def loss(params, batch: Example):
    # Norms are float32 whatever the compute type.
    cast = jax.tree.map(lambda p: p.astype(config.compute_dtype) if p.ndim > 1 else p, params)
    mel, target = augmented(key, batch, config.model.config, config.augment)

    def run(params, mel):
      found: dict[str, Any] = {}
      logits = config.model.apply({"params": params}, mel, found=found)[0][:, -1]
      return logits.astype(jnp.float32), found

    logits, found = (jax.checkpoint(run) if config.remat else run)(
      cast, mel.astype(config.compute_dtype)
    )
    right = (logits.argmax(axis=-1) == target.argmax(axis=-1)).mean()
    each = optax.sigmoid_binary_cross_entropy(logits, target)
    return each.mean(), {"accuracy": right, "statistics": found}

  new, metrics = sequences.learnt(state, batch, loss, config)
  found = metrics.pop("statistics")
  moved = batch_statistics(new.params, found, config.momentum)
  # They are averages already.
  average = batch_statistics(new.average, found, config.momentum)
  good = new.skipped == state.skipped
  keep = lambda a, b: jnp.where(good, a, b)  # noqa: E731
  new = new._replace(
    params=jax.tree.map(keep, moved, new.params), average=jax.tree.map(keep, average, new.average)
  )
  return new, metrics


def augmented(key, batch: Example, network, how: Augment):
  """`(mel [B, N, bands], target [B, K])` as the network is given them."""
  x, target = batch.x, jax.nn.one_hot(batch.label, network.classes)
  rows = len(x)
  # Drawn at once: every draw is a long program of its own to compile.
  drawn = jax.random.uniform(key, (rows, 7 + 2 * _MIX), minval=1e-7)
  gammas = -jnp.log(drawn[:, 7:]).reshape(rows, 2, _MIX).sum(axis=-1)
  share = gammas[:, :1] / gammas.sum(axis=1, keepdims=True)
  share = jnp.where(drawn[:, :1] < how.mixed, share, 1.0)
  # The next row is as good as any: rows come in an order that is drawn.
  x, target = (share * a + (1 - share) * jnp.roll(a, 1, axis=0) for a in (x, target))
  mel, _ = kaldi_log_mel(x, network.bands)
  frames = mel.shape[1]
  for axis, size, widest, draw in (
    (1, frames, how.frames, drawn[:, 1:3]),
    (2, network.bands, how.bands, drawn[:, 3:5]),
  ):
    width = draw[:, 0] * min(widest, size)
    start = draw[:, 1] * (size - width)
    mel = masked(mel, axis, jnp.floor(start)[:, None], jnp.floor(start + width)[:, None])
  mel = normalised(mel)
  noise = jax.random.uniform(jax.random.fold_in(key, 1), mel.shape)
  mel += how.noise * drawn[:, 5, None, None] * noise
  shift = jnp.floor(drawn[:, 6] * (2 * how.shift + 1)).astype(jnp.int32) - how.shift
  place = (jnp.arange(frames) - shift[:, None]) % frames
  return jnp.take_along_axis(mel, place[..., None], axis=1), target
