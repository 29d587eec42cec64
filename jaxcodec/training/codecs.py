"""What runs that learn a codec have of their own: contradictions, and how codebooks begin."""

import jax
import jax.numpy as jnp

from jaxcodec.data.sound import Packed, signal_of
from jaxcodec.data.taught import TaughtSound
from jaxcodec.training import codebooks
from jaxcodec.training.config import Train
from jaxcodec.training.distillation import Distillation
from jaxcodec.training.state import TrainState, output_terms


def check(config: Train) -> None:
  """Raises ValueError for what contradicts itself, naming the fields."""
  quantization, weights = config.quantization, config.losses
  if quantization.decay:
    codebooks.paths(config)
  elif not weights.codebook:
    raise ValueError("quantization.decay=0 needs a weight for losses.codebook")
  if quantization.kmeans_batches and not quantization.decay:
    raise ValueError("quantization.kmeans_batches needs a quantization.decay")
  most = len(config.codec.codebook_sizes)
  if any(not 1 <= count <= most for count in quantization.active_choices):
    raise ValueError(f"quantization.active_choices must lie within 1 and {most}")
  terms = output_terms(config)
  if not terms:
    raise ValueError("no loss of the decoded signal has a weight: set losses.mel, .l1 or another")
  if weights.perceptual and weights.perceptual_loss is None:
    raise ValueError("losses.perceptual needs a losses.perceptual_loss")
  distillation = config.distillation
  if (distillation is None) == bool(weights.distillation):
    raise ValueError("losses.distillation and a distillation go together")
  if distillation is not None:
    check_distillation(config, distillation)
  if config.adversary is None and (weights.adversarial or weights.features):
    raise ValueError("losses.adversarial and losses.features need an adversary")
  if weights.adaptive and ("adversarial" not in terms or weights.balanced):
    raise ValueError("losses.adaptive needs losses.adversarial, and no losses.balanced")


def check_distillation(config: Train, distillation: Distillation) -> None:
  """Raises ValueError for teachers that do not fit the codec or the data."""
  if not hasattr(type(config.codec), "learnt"):
    raise ValueError(f"{type(config.codec).__name__} learns from no teachers")
  count = len(distillation.weights)
  if len(distillation.stages) != count or max(distillation.stages) >= config.codec.num_codebooks:
    raise ValueError(
      f"distillation.stages={distillation.stages} for {count} weights "
      f"and {config.codec.num_codebooks} codebooks"
    )
  data = config.data
  given = data.num_teachers if isinstance(data, TaughtSound) else len(distillation.teachers)
  if given != count:
    raise ValueError(f"distillation has {count} weights, and there are {given} teachers")


def with_kmeans(state: TrainState, key, data, step: int, place, config: Train) -> TrainState:
  """Where codebooks begin: by k-means on the latents of this step's batch and of those after it."""
  quantization = config.quantization
  if not quantization.kmeans_batches or step != quantization.start_step:
    return state
  wanted = range(step, min(step + config.quantization.kmeans_batches, len(data)))

  @jax.jit
  def encode(params, batch):
    segments = batch.segments if isinstance(batch, Packed) else None
    x = signal_of(batch)
    z = config.codec.apply({"params": params}, x, method="latents")
    if segments is not None:
      # k-means passes over what is not finite.
      z = jnp.where(segments[..., None] > 0, z, jnp.nan)
    # Batches may differ in length.
    return z.reshape(-1, z.shape[-1])

  @jax.jit
  def start(params, average, z):
    found, ema = codebooks.kmeans(config, params, jax.random.fold_in(key, 2**31 + step), z)
    # Counts as of one batch: the moving averages go on from there.
    share = 1 / len(wanted)
    ema = jax.tree.map(lambda leaf: leaf * share, ema)
    written = (codebooks.write(config, tree, found) for tree in (params, average))
    return (*written, ema)

  z = jnp.concatenate([encode(state.params, place(data[i])) for i in wanted])
  params, average, ema = start(state.params, state.average, z)
  new = state._replace(params=params, average=average, ema=ema)
  # Placed as they were: the step is compiled for that.
  return jax.tree.map(lambda a, b: jax.device_put(a, b.sharding), new, state)
