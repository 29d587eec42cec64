"""Runs that learn a codec of rounded latents: bits and squared error, weighed by a lambda.

The state is that of every run, with `()` for what only codecs with codebooks have, so meshes,
checkpoints, logs and the loop are the same.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcodec.data.pictures import Pictures
from jaxcodec.image.picture_codec import PictureCodec, rate_distortion
from jaxcodec.training import principal
from jaxcodec.training.config import Adam, BaseRun, Muon
from jaxcodec.training.remat import rematerialized
from jaxcodec.training.state import TrainState, plain_state
from jaxcodec.training.step import averaged, settled


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainPictures(BaseRun):
  """A run; the fields that are not said here are those of `config.BaseRun` and `config.Train`.

  Attributes:
    codec: what learns.
    data: what to learn from.
    lambdas: what a squared error counts in bits at the lowest quality and at the highest, see
      `rate_distortion`; equal ones for a codec of one rate. A codec of many is given a quality of
      its own for each picture, all as likely.
    principal_batches: batches whose principal components the transforms begin as, see
      `training.principal`; 0 for none.
    selective_share: share of the steps, the last ones, in which a codec that leaves latents out
      (`skip_below` of `image.mlic`) learns to do without them.
    median_rate: Adam's rate for the quantiles of side information, whose loss moves nothing else.
  """

  codec: PictureCodec
  data: Pictures
  optimizer: Adam | Muon
  lambdas: tuple[float, float]
  principal_batches: int = 0
  selective_share: float = 0.1
  median_rate: float = 1e-2
  keep_best: int = 1

  samples_every: ClassVar[int] = 0


def check(config: TrainPictures) -> None:
  """Raises ValueError for what contradicts itself, naming the fields."""
  low, high = config.lambdas
  if not 0 < low <= high:
    raise ValueError(f"lambdas={config.lambdas}: above zero, the lower one first")
  if not config.codec.levels and low != high:
    raise ValueError(f"lambdas={config.lambdas} differ: codec.levels=0 is a codec of one rate")
  if not 0 <= config.selective_share <= 1:
    raise ValueError(f"selective_share={config.selective_share} must be 0 to 1")
  if config.codec.levels == 1:
    raise ValueError("codec.levels must be 0, or 2 and more")
  if config.principal_batches:
    state = jax.eval_shape(functools.partial(init_state, config=config), jax.random.key(0))
    if not principal.fits(state.params):
      raise ValueError(
        "principal_batches needs transforms of convolutions and GDN (codec.transform=gdn), or of "
        "patches with codec.filters of 48 or more"
      )
  multiple = config.codec.multiple
  if config.data.channels != 3 or any(side % multiple for side in config.data.size):
    raise ValueError(f"data.size={config.data.size}: multiples of {multiple}, of 3 channels")


def init_state(key, config: TrainPictures) -> TrainState:
  """The start of a run."""
  quality = jnp.zeros(()) if config.codec.levels else None
  # Shapes of weights depend on no picture's.
  params = config.codec.init(key, jnp.zeros((1, 64, 64, 3)), quality=quality)["params"]
  return plain_state(params, _optimizer(config, params))


def train_step(state: TrainState, batch, key, *, config: TrainPictures) -> tuple[TrainState, dict]:
  """Takes a step; see `step.train_step`.

  Args:
    batch: float32 `[B, H, W, 3]` in [-1, 1].
  """
  late = state.step >= (1 - config.selective_share) * config.num_steps
  step_key = jax.random.fold_in(key, state.step)
  gradients, terms = loss_gradients(state.params, batch, step_key, config, late)
  optimizer = _optimizer(config, state.params)
  updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
  params = optax.apply_updates(state.params, updates)
  new = state._replace(
    params=params,
    optimizer=optimizer_state,
    average=averaged(state, params, config.average_decay),
  )
  metrics = {"objective": terms.pop("objective"), "gradient_norm": optax.tree.norm(gradients)}
  return settled(state, new, gradients, terms, metrics)


def loss_gradients(params, batch, key, config: TrainPictures, late):
  """`(gradients, terms)` of a batch `[B, H, W, 3]`, taken in parts and averaged."""
  gradient = jax.grad(functools.partial(_loss, config=config, late=late), has_aux=True)
  if config.accumulate == 1:
    return gradient(params, batch, key)
  # Row i goes to part i mod parts, so that every device keeps its rows.
  parts = batch.reshape(-1, config.accumulate, *batch.shape[1:]).swapaxes(0, 1)
  keys = jax.random.split(key, config.accumulate)
  _, found = jax.lax.scan(lambda _, part: (None, gradient(params, *part)), None, (parts, keys))
  return jax.tree.map(lambda leaf: leaf.mean(axis=0), found)


def _loss(params, x, key, config: TrainPictures, late):
  """`(loss, terms)`: means over the pictures; `late`, a traced bool: see `selective_share`."""
  low, high = config.lambdas
  for_quality, for_noise = jax.random.split(key)
  share, quality = jnp.zeros(len(x)), None
  if config.codec.levels:
    # One of each stratum, so that every batch has all rates.
    share = (jnp.arange(len(x)) + jax.random.uniform(for_quality, (len(x),))) / len(x)
    quality = share * (config.codec.levels - 1)
  trade_off = low * (high / low) ** share
  changes = {"selective": late} if getattr(config.codec, "skip_below", 0) else {}
  with rematerialized(config.remat):
    coded = config.codec.apply({"params": params}, x, for_noise, quality, **changes)
  bits, squared, loss = rate_distortion(x, coded, trade_off)
  # At low rates bits and errors together are about as the root of lambda: so all weigh alike.
  weighed = (loss * jnp.sqrt((low * high) ** 0.5 / trade_off)).mean()
  terms = {
    "bits_per_pixel": bits.mean(),
    "squared_error": squared.mean(),
    "quantiles": coded.aux_loss,
    "objective": weighed,
  }
  return weighed + coded.aux_loss + jnp.mean(coded.penalty), jax.lax.stop_gradient(terms)


def _optimizer(config: TrainPictures, params) -> optax.GradientTransformation:
  """The run's for all but the quantiles, which have Adam."""
  labels = unflatten_dict(
    {path: "quantiles" if path[-1] == "quantiles" else "rest" for path in flatten_dict(params)}
  )
  rest = config.optimizer.transformation(config.num_steps)
  return optax.partition({"rest": rest, "quantiles": optax.adam(config.median_rate)}, labels)
