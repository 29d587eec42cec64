"""Runs that learn SemantiCodec from nothing but sound: their configuration, start and step.

Two stages, as the source has them: until `start_step` the masked autoencoder, the decoder of
latents and the vocoder learn, each for itself. They then stand still, k-means on their features and
latents makes the codebooks, and the acoustic encoder and the diffusion learn together. The source
takes the parts of the first stage from others, who trained decoder and vocoder with adversaries as
well; here these have none. Each stage is a program of its own, with an optimizer for what learns in
it.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcodec import functional as F
from jaxcodec.audio.semanticodec import SemantiCodec, spectrogram
from jaxcodec.data.sound import Sound
from jaxcodec.decoders import hifigan, latent_diffusion
from jaxcodec.encoders.mae import Block, MaePredictor, masked_error
from jaxcodec.encoders.vqgan import VqganEncoder
from jaxcodec.functional.log_mel import vocoder_log_mel
from jaxcodec.layers import unet, vqgan
from jaxcodec.training import losses, sharding
from jaxcodec.training.config import Adam, BaseRun
from jaxcodec.training.remat import computed_again
from jaxcodec.training.state import TrainState, plain_state
from jaxcodec.training.step import averaged, settled

_FIXED = (
  ("encoder", "positions"),
  ("quantizer", "centroids"),
  ("quantizer", "acoustic"),
  ("decoder", "latent_scale"),
)
_SECOND = (("quantizer",), ("decoder", "unet"))
# What `remat` computes again.
_BLOCKS = (
  Block,
  hifigan.ResidualUnit,
  vqgan.ResidualBlock,
  unet.TimeBlock,
  unet.SpatialTransformer,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictor:
  """The half of the masked autoencoder that training alone needs.

  Attributes:
    width, num_heads, num_layers: of its Transformer.
  """

  width: int = 512
  num_heads: int = 16
  num_layers: int = 8


_PREDICTOR = Predictor()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSemantic(BaseRun):
  """A run; the fields that are not said here are those of `config.BaseRun` and `config.Train`.

  Attributes:
    codec: what learns.
    data: what to learn from; a segment is a window.
    start_step: of the second stage.
    kmeans_batches: whose features make the centroids there.
    predictor: see `Predictor`.
    kept_share: share of the patches that the masked autoencoder sees.
    divergence: weight of the latents' divergence from a normal distribution, beside the mean
      absolute error of the spectrum.
    mel_scales: of the vocoder's loss.
    decay: of the acoustic codebook's moving averages.
    drop_condition: share of rows that learn to do without.
  """

  codec: SemantiCodec
  data: Sound
  start_step: int
  optimizer: Adam
  mel_scales: losses.MelScales
  kmeans_batches: int = 64
  predictor: Predictor = _PREDICTOR
  kept_share: float = 0.2
  divergence: float = 0.015
  decay: float = 0.9
  drop_condition: float = 0.1

  samples_every: ClassVar[int] = 0
  # Errors of the two stages are of different things.
  keep_best: ClassVar[int] = 0


def check(config: TrainSemantic) -> None:
  """Raises ValueError for what contradicts itself, naming the fields."""
  if not 0 < config.start_step <= config.num_steps:
    raise ValueError(f"start_step={config.start_step} must lie within 1 and num_steps")
  if config.kmeans_batches < 1 or not 0 < config.kept_share < 1:
    raise ValueError("kmeans_batches must be at least 1, and kept_share lie between 0 and 1")
  found = config.data.segment_samples(config.codec)
  if found != config.codec.window_length or config.data.buckets or config.data.packed:
    raise ValueError(
      f"data.segment_seconds={config.data.segment_seconds} gives {found} samples, a window has "
      f"{config.codec.window_length}; and windows come neither packed nor in buckets"
    )


class Helpers(nn.Module):
  """What training alone needs: the predictor, and the encoder of spectra to latents."""

  config: TrainSemantic

  def setup(self):
    codec, predictor = self.config.codec, self.config.predictor
    fields = predictor.width, predictor.num_heads, predictor.num_layers
    self.predictor = MaePredictor(codec.mae, *fields)
    vae = codec.diffusion.vae
    moments = 2 * vae.latent_width
    self.vae = VqganEncoder(dataclasses.replace(vae, latent_width=moments), moments)

  def __call__(self, features, order, mel):
    """Creates every parameter."""
    return self.predictor(features, order), self.vae(mel[..., None])

  def moments(self, mel):
    """Means of latents, and logarithms of their variances."""
    mean, log_variance = jnp.split(self.vae(mel[..., None]), 2, axis=-1)
    return mean, jnp.clip(log_variance, -30, 20)


class Found(NamedTuple):
  """What a step finds beside gradients.

  Attributes:
    losses: scalars by name.
    counts: [2, K], how often each token occurred; `()` in the first stage, as the next.
    statistics: of the acoustic codebook.
  """

  losses: dict[str, jax.Array]
  counts: Any
  statistics: Any


def init_state(key, config: TrainSemantic) -> TrainState:
  """The start of a run; what training alone needs lies where discriminators do."""
  codec, helpers = config.codec, Helpers(config)
  codec_key, helper_key = jax.random.split(key)
  params = codec.init(codec_key, jnp.zeros((1, *codec.smallest)))["params"]
  count = codec.mae.grid[0] * codec.mae.grid[1]
  shapes = (1, 2, codec.mae.width), (1, count), (1, codec.diffusion.frames, codec.diffusion.bands)
  features, order, mel = (jnp.zeros(shape) for shape in shapes)
  others = helpers.init(helper_key, features, order.astype(int), mel)["params"]
  tx = config.optimizer.transformation(config.num_steps)
  trees = {"codec": params, "helpers": others}
  sizes = codec.codebook_sizes
  book = params["quantizer"]["acoustic"]["codebooks"]
  return plain_state(params, tx)._replace(
    optimizer=tuple(tx.init(_parted(trees, second)[0]) for second in (False, True)),
    discriminators=others,
    ema=F.ema_state(book),
    usage=jnp.zeros((2, max(sizes))),
  )


def train_step(
  state: TrainState, batch, key, *, config: TrainSemantic, second: bool
) -> tuple[TrainState, dict]:
  """Takes a step; see `step.train_step`.

  Args:
    batch: float32 `[B, window, 1]`.
    second: the stage; static.
  """
  key = jax.random.fold_in(key, state.step)
  learning, still = _parted(_trees(state), second)
  gradients, found = _gradients(learning, still, batch, key, config, second)

  tx = config.optimizer.transformation(config.num_steps)
  updates, optimizer = tx.update(gradients, state.optimizer[second], learning)
  learning = optax.apply_updates(learning, updates)
  trees = _joined(learning, still)
  average, rest = _parted({"codec": state.average}, second)
  average = averaged(
    state._replace(average=average["codec"]), learning["codec"], config.average_decay
  )
  new = state._replace(
    params=trees["codec"],
    discriminators=trees["helpers"],
    average=_joined({"codec": average}, rest)["codec"],
    optimizer=tuple(optimizer if i == second else o for i, o in enumerate(state.optimizer)),
  )
  if second:
    book, ema = F.ema_update(state.ema, found.statistics, config.decay)
    new = new._replace(
      params=_with_book(new.params, book),
      average=_with_book(new.average, book),
      ema=ema,
      usage=state.usage + 0.01 * (found.counts - state.usage),
    )
  terms = found.losses
  metrics = {"objective": sum(terms.values()), "gradient_norm": optax.tree.norm(gradients)}
  return settled(state, new, gradients, terms, metrics)


def learnt(state: TrainState, config: TrainSemantic):
  """The parameters that the last step's gradients were of."""
  return _parted(_trees(state), int(state.step) > config.start_step)[0]


def _trees(state: TrainState) -> dict[str, Any]:
  return {"codec": state.params, "helpers": state.discriminators}


def _parted(trees: dict[str, Any], second: bool) -> tuple[dict[str, Any], dict[str, Any]]:
  """`(parameters that learn in the stage, all others)`."""
  flat = flatten_dict(trees)
  learning = {path: leaf for path, leaf in flat.items() if _stage(path) is second}
  still = {path: leaf for path, leaf in flat.items() if path not in learning}
  return unflatten_dict(learning), unflatten_dict(still)


def _joined(learning: dict[str, Any], still: dict[str, Any]) -> dict[str, Any]:
  return unflatten_dict(flatten_dict(learning) | flatten_dict(still))


def _stage(path: tuple[str, ...]) -> bool | None:
  """Whether a parameter learns in the second stage; None for one that gradients do not train."""
  tree, *rest = path
  names = tuple(rest)

  def among(starts):
    return tree == "codec" and any(names[: len(start)] == start for start in starts)

  return None if among(_FIXED) else among(_SECOND)


def _with_book(params, book):
  quantizer = params["quantizer"] | {"acoustic": {"codebooks": book}}
  return params | {"quantizer": quantizer}


def _gradients(learning, still, batch, key, config: TrainSemantic, second: bool):
  """Gradients by `learning`, and what was found, of a batch that is taken in parts."""
  loss = _second_loss if second else _first_loss

  def run(learning, x, key):
    trees = _joined(learning, still)
    if second and config.mesh.gather_once:  # The first has no recurrence, and less room.
      trees = sharding.gathered(trees, config.mesh)
    return loss(trees, config, x, key)

  def part(x, key):
    with nn.intercept_methods(sharding.rows_apart), computed_again(config.remat, _BLOCKS):
      return jax.grad(run, has_aux=True)(learning, x, key)

  count = config.accumulate
  if count == 1:
    return part(batch, key)

  def taken(total, inputs):
    return jax.tree.map(jnp.add, total, part(*inputs)), None

  # Row i goes to part i mod parts, so that every device keeps its rows.
  parts = batch.reshape(-1, count, *batch.shape[1:]).swapaxes(0, 1)
  inputs = parts, jax.random.split(key, count)
  start = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(part, *(x[0] for x in inputs)),
  )
  (gradients, found), _ = jax.lax.scan(taken, start, inputs)
  gradients, terms = jax.tree.map(lambda x: x / count, (gradients, found.losses))
  return gradients, found._replace(losses=terms)


def _first_loss(trees, config: TrainSemantic, x, key):
  """Masked patches, spectra by way of latents, and waves from spectra."""
  codec, helpers = _bound(trees, config)
  for_masks, for_latents = jax.random.split(key)
  shown = spectrogram(x[..., 0], codec.mae)
  masked = masked_error(codec.encoder, helpers.predictor, shown, for_masks, config.kept_share)
  mel = vocoder_log_mel(x[..., 0], codec.diffusion.bands)
  mean, log_variance = helpers.moments(mel)
  noise = jax.random.normal(for_latents, mean.shape)
  latents = mean + jnp.exp(0.5 * log_variance) * noise
  spectrum = jnp.abs(codec.decoder.mel(latents) - mel).mean()
  divergence = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).mean()
  wave = codec.decoder.wave(mel)
  vocoder = losses.mel_loss(x, wave, codec.sample_rate, config.mel_scales)
  total = masked + spectrum + config.divergence * divergence + vocoder
  terms = {"masked": masked, "spectrum": spectrum, "divergence": divergence, "vocoder": vocoder}
  return total, Found(terms, (), ())


def _second_loss(trees, config: TrainSemantic, x, key):
  """The acoustic codebook's commitment, and v of latents under the tokens' condition."""
  codec, helpers = _bound(trees, config)
  features, end = jax.lax.stop_gradient(codec.features(x))
  condition, quantized = codec.quantizer(features, end)
  mel = vocoder_log_mel(x[..., 0], codec.diffusion.bands)
  latents, _ = helpers.moments(mel)
  latents = jax.lax.stop_gradient(latents * codec.decoder.latent_scale)
  for_steps, for_noise, for_rows = jax.random.split(key, 3)
  shares = jnp.asarray(latent_diffusion.shares(), jnp.float32)
  steps = jax.random.randint(for_steps, (len(x),), 0, len(shares))
  noisy, v = F.diffused(latents, jax.random.normal(for_noise, latents.shape), shares[steps])
  kept = jax.random.uniform(for_rows, (len(x), 1, 1)) >= config.drop_condition
  found = codec.decoder.predict(noisy, steps, jnp.where(kept, condition, 0))
  diffusion = jnp.square(found - v).mean()
  terms = {"commitment": quantized.loss, "diffusion": diffusion}
  counts = F.code_counts(quantized.codes, max(codec.codebook_sizes))
  assert quantized.statistics is not None
  return quantized.loss + diffusion, Found(terms, counts, quantized.statistics)


def _bound(trees, config: TrainSemantic):
  helpers = Helpers(config).bind({"params": trees["helpers"]})
  return config.codec.bind({"params": trees["codec"]}), helpers


def begun(state: TrainState, key, data, step: int, place, config: TrainSemantic) -> TrainState:
  """At the second stage's start, codebooks by k-means and the scale of latents; see
  `codecs.with_kmeans`."""
  if step != config.start_step:
    return state
  wanted = range(step, min(step + config.kmeans_batches, len(data)))

  @jax.jit
  def seen(state, x):
    """Features [N, D], NaN in silence, which k-means passes over; and the latents' variance."""
    codec, helpers = _bound(_trees(state), config)
    features, end = codec.features(x)
    sounds = jnp.arange(features.shape[1]) < end[:, None]
    latents, _ = helpers.moments(vocoder_log_mel(x[..., 0], codec.diffusion.bands))
    rows = jnp.where(sounds[..., None], features, jnp.nan).reshape(-1, features.shape[-1])
    return rows, latents.var()

  @jax.jit
  def start(state, rows, variance, x):
    codec = config.codec
    keys = jax.random.split(jax.random.fold_in(key, 2**31 + step))
    centroids, _ = F.kmeans(keys[0], rows, codec.semantic_size)
    params = state.params | {"quantizer": state.params["quantizer"] | {"centroids": centroids}}
    bound = codec.bind({"params": params})
    features, end = bound.features(x)
    _, rest = bound.quantizer.residual(features, end)
    sounds = jnp.arange(rest.shape[1]) < end[:, None]
    rest = jnp.where(sounds[..., None], rest, jnp.nan).reshape(-1, rest.shape[-1])
    book, ema = F.kmeans(keys[1], rest, codec.codebook_size)

    params |= {"decoder": params["decoder"] | {"latent_scale": 1 / jnp.sqrt(variance)}}
    return _with_book(params, book[None]), jax.tree.map(lambda leaf: leaf[None], ema)

  found = [seen(state, place(data[i])) for i in wanted]
  rows = jnp.concatenate([rows for rows, _ in found])
  variance = jnp.stack([variance for _, variance in found]).mean()
  params, ema = start(state, rows, variance, place(data[step]))
  # What stands still from now on is its own average; what now begins to learn was it so far.
  new = state._replace(params=params, average=jax.tree.map(jnp.copy, params), ema=ema)
  # Placed as they were: the step is compiled for that.
  return jax.tree.map(lambda a, b: jax.device_put(a, b.sharding), new, state)
