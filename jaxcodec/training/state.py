"""Everything that a run carries from step to step, as one pytree."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcodec import functional as F
from jaxcodec.data.taught import Taught
from jaxcodec.training import codebooks as codebooks_lib
from jaxcodec.training.config import Train
from jaxcodec.training.losses import BalancerState


class TrainState(NamedTuple):
  """What `step.train_step` takes and returns; `()` stands for what a run does not have.

  Attributes:
    step: int32, steps that were taken, skipped ones too.
    params: of the codec, codebooks included.
    optimizer: of the parameters that gradients train.
    average: moving averages of `params`.
    ema: counts [Q, K] and sums [Q, K, D] of codebooks that moving averages train.
    usage: float32 [Q, K], moving averages of how often each code occurs in a batch.
    discriminators: parameters of each.
    discriminator_optimizer: of these.
    balancer: of EnCodec's balancer.
    skipped, skipped_in_row: int32, steps with numbers that were not finite.
  """

  step: jax.Array
  params: Any
  optimizer: Any
  average: Any
  ema: Any
  usage: Any
  discriminators: Any
  discriminator_optimizer: Any
  balancer: Any
  skipped: jax.Array
  skipped_in_row: jax.Array


def optimizers(config: Train, params) -> tuple[optax.GradientTransformation, Any]:
  """Of the codec, where codebooks written from statistics stand still, and of discriminators."""
  written = codebooks_lib.paths(config) if config.quantization.decay else ()
  places = {("quantizer", *path) for path in written}
  labels = unflatten_dict(
    {path: "written" if path in places else "trained" for path in flatten_dict(params)}
  )
  trained = config.optimizer.transformation(config.num_steps)
  codec = optax.partition({"trained": trained, "written": optax.set_to_zero()}, labels)
  adversary = config.adversary
  other = None if adversary is None else adversary.optimizer.transformation(config.num_steps)
  return codec, other


def init_state(key, config: Train) -> TrainState:
  """The start of a run; under `jax.jit` with output shardings each device makes its part."""
  module, shape = config.codec, signal_shape(config)
  codec_key, other_key = jax.random.split(key)
  # Shapes of weights depend on no length, and a short signal compiles sooner.
  params = module.init(codec_key, jnp.zeros((1, *module.smallest)))["params"]
  params = _with_gain(params, config.input_gain)
  discriminators: Any = ()
  codec_optimizer, discriminator_optimizer = optimizers(config, params)
  if config.adversary is not None:
    x = jnp.zeros((1, *shape))
    parts = config.adversary.discriminators
    keys = jax.random.split(other_key, len(parts))
    discriminators = tuple(part.init(k, x)["params"] for part, k in zip(parts, keys, strict=True))
  zero = jnp.zeros((), jnp.int32)
  sizes = module.codebook_sizes
  return TrainState(
    step=zero,
    params=params,
    optimizer=codec_optimizer.init(params),
    average=jax.tree.map(jnp.copy, params),
    ema=F.ema_state(codebooks_lib.read(config, params)) if config.quantization.decay else (),
    usage=jnp.zeros((len(sizes), max(sizes))),
    discriminators=discriminators,
    discriminator_optimizer=(
      () if discriminator_optimizer is None else discriminator_optimizer.init(discriminators)
    ),
    balancer=_balancer(config),
    skipped=zero,
    skipped_in_row=zero,
  )


def signal_shape(config: Train) -> tuple[int, ...]:
  """Of a row of a batch, without what else the data bring."""
  shape = config.data.shape(config.codec)
  return shape.x if isinstance(shape, Taught) else shape


def plain_state(params, optimizer: optax.GradientTransformation) -> TrainState:
  """The start of a run with these parameters, and nothing that only codecs with codebooks have."""
  zero = jnp.zeros((), jnp.int32)
  return TrainState(
    step=zero,
    params=params,
    optimizer=optimizer.init(params),
    average=jax.tree.map(jnp.copy, params),
    ema=(),
    usage=(),
    discriminators=(),
    discriminator_optimizer=(),
    balancer=(),
    skipped=zero,
    skipped_in_row=zero,
  )


def output_terms(config: Train) -> dict[str, float]:
  """The weights of the losses of the decoded signal that have one."""
  weights = config.losses
  names = ["l1", "l2", "wave", "mel", "stft", "perceptual"]
  names += ["adversarial", "features"] if config.adversary is not None else []
  return {name: getattr(weights, name) for name in names if getattr(weights, name)}


def _balancer(config: Train):
  if not config.losses.balanced:
    return ()
  return BalancerState({name: jnp.zeros(()) for name in output_terms(config)}, jnp.zeros(()))


def _with_gain(params, gain: float):
  if gain == 1.0:
    return params
  flat = flatten_dict(params, sep="/")
  for path, value in flat.items():
    if re.search(r"^encoder/(.*/)?conv_in/kernel$", path):
      flat[path] = value * gain
    if re.search(r"^decoder/(.*/)?conv_out/kernel$", path):
      flat[path] = value / gain
  return unflatten_dict(flat, sep="/")
