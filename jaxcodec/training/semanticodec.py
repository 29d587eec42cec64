"""Runs that learn SemantiCodec from nothing but sound: their configuration, start and step.

Two stages, as the source has them: until `start_step` the masked autoencoder, the decoder of
latents and the vocoder learn, each for itself. They then stand still, k-means on their features and
latents makes the codebooks, and the acoustic encoder and the diffusion learn together. The source
takes the parts of the first stage from others, who trained decoder and vocoder with adversaries as
well; here these have none.
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcodec import functional as F
from jaxcodec.audio.semanticodec import SemantiCodec, spectrogram
from jaxcodec.data.sound import Sound
from jaxcodec.decoders import latent_diffusion
from jaxcodec.encoders.mae import MaePredictor, masked_error
from jaxcodec.encoders.vqgan import VqganEncoder
from jaxcodec.functional.log_mel import vocoder_log_mel
from jaxcodec.training import losses, sharding
from jaxcodec.training.config import Adam, Mesh
from jaxcodec.training.state import TrainState, plain_state
from jaxcodec.training.step import averaged, settled

_MESH = Mesh()
_FIXED = (
  ("encoder", "positions"),
  ("quantizer", "centroids"),
  ("quantizer", "acoustic"),
  ("decoder", "latent_scale"),
)
_SECOND = (("quantizer",), ("decoder", "unet"))


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
class TrainSemantic:
  """A run; the fields that are not said here are those of `config.Train`.

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

  name: str
  codec: SemantiCodec
  data: Sound
  batch_size: int
  num_steps: int
  start_step: int
  optimizer: Adam
  mel_scales: losses.MelScales
  kmeans_batches: int = 64
  predictor: Predictor = _PREDICTOR
  kept_share: float = 0.2
  divergence: float = 0.015
  decay: float = 0.9
  drop_condition: float = 0.1
  mesh: Mesh = _MESH
  accumulate: int = 1
  remat: bool = False
  average_decay: float = 0.999
  seed: int = 0
  stop_after: int = 10
  save_every: int = 1000
  keep_last: int = 2
  log_every: int = 50

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
    losses: scalars by name; those of the other stage are zero.
    counts: [2, K], how often each token occurred.
    statistics: of the acoustic codebook.
  """

  losses: dict[str, jax.Array]
  counts: jax.Array
  statistics: F.CodeStatistics


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
  sizes = codec.codebook_sizes
  book = params["quantizer"]["acoustic"]["codebooks"]
  return plain_state(params, tx)._replace(
    optimizer=tx.init((params, others)),
    discriminators=others,
    ema=F.ema_state(book),
    usage=jnp.zeros((2, max(sizes))),
  )


def train_step(state: TrainState, batch, key, *, config: TrainSemantic) -> tuple[TrainState, dict]:
  """Takes a step; see `step.train_step`.

  Args:
    batch: float32 `[B, window, 1]`.
  """
  key = jax.random.fold_in(key, state.step)
  second = state.step >= config.start_step
  trees = state.params, state.discriminators
  parts = batch.reshape(-1, config.accumulate, *batch.shape[1:]).swapaxes(0, 1)

  def taken(_, inputs):
    found = jax.lax.cond(
      second,
      functools.partial(_gradients, _second_loss, config),
      functools.partial(_gradients, _first_loss, config),
      *(trees, *inputs),
    )
    return None, found

  _, (gradients, found) = jax.lax.scan(taken, None, (parts, jax.random.split(key, len(parts))))
  gradients, terms = jax.tree.map(lambda x: x.mean(axis=0), (gradients, found.losses))
  counts, statistics = jax.tree.map(lambda x: x.sum(axis=0), (found.counts, found.statistics))

  tx = config.optimizer.transformation(config.num_steps)
  updates, optimizer = tx.update(gradients, state.optimizer, trees)
  # Zero gradients alone would leave momentum and decay at work.
  updates = jax.tree_util.tree_map_with_path(functools.partial(_staged, second), updates)
  params, others = optax.apply_updates(trees, updates)
  written = F.ema_update(state.ema, statistics, config.decay)
  still = state.params["quantizer"]["acoustic"]["codebooks"], state.ema
  book, ema = jax.tree.map(lambda a, b: jnp.where(second, a, b), written, still)
  params = _with_book(params, book)
  new = state._replace(
    params=params,
    discriminators=others,
    optimizer=optimizer,
    average=_with_book(averaged(state, params, config.average_decay), book),
    ema=ema,
    usage=jnp.where(second, state.usage + 0.01 * (counts - state.usage), state.usage),
  )
  metrics = {"objective": sum(terms.values()), "gradient_norm": optax.tree.norm(gradients)}
  return settled(state, new, gradients, terms, metrics)


def _staged(second, path, update):
  # The first part of a path says whether it is the codec's.
  codec, names = path[0].idx == 0, tuple(part.key for part in path[1:])
  if codec and any(names[: len(fixed)] == fixed for fixed in _FIXED):
    return jnp.zeros_like(update)
  late = codec and any(names[: len(start)] == start for start in _SECOND)
  return jnp.where(second if late else ~second, update, 0)


def _with_book(params, book):
  quantizer = params["quantizer"] | {"acoustic": {"codebooks": book}}
  return params | {"quantizer": quantizer}


def _gradients(loss, config: TrainSemantic, trees, x, key):
  run = functools.partial(loss, config=config, x=x, key=key)
  with nn.intercept_methods(sharding.rows_apart):
    return jax.grad(jax.checkpoint(run) if config.remat else run, has_aux=True)(trees)


def _first_loss(trees, *, config: TrainSemantic, x, key):
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
  size, width = codec.codebook_size, codec.mae.width * codec.stack
  nothing = F.CodeStatistics(jnp.zeros((1, size)), jnp.zeros((1, size, width)))
  counts = jnp.zeros((2, max(codec.codebook_sizes)))
  return total, Found(terms | _zeros("commitment", "diffusion"), counts, nothing)


def _second_loss(trees, *, config: TrainSemantic, x, key):
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
  terms |= _zeros("masked", "spectrum", "divergence", "vocoder")
  counts = F.code_counts(quantized.codes, max(codec.codebook_sizes))
  assert quantized.statistics is not None
  return quantized.loss + diffusion, Found(terms, counts, quantized.statistics)


def _zeros(*names: str) -> dict[str, jax.Array]:
  return {name: jnp.zeros(()) for name in names}


def _bound(trees, config: TrainSemantic):
  params, others = trees
  helpers = Helpers(config).bind({"params": others})
  return config.codec.bind({"params": params}), helpers


def begun(state: TrainState, key, data, step: int, place, config: TrainSemantic) -> TrainState:
  """At the second stage's start, codebooks by k-means and the scale of latents; see
  `codecs.with_kmeans`."""
  if step != config.start_step:
    return state
  wanted = range(step, min(step + config.kmeans_batches, len(data)))

  @jax.jit
  def seen(state, x):
    """Features [N, D], NaN in silence, which k-means passes over; and the latents' variance."""
    codec, helpers = _bound((state.params, state.discriminators), config)
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
    bound, _ = _bound((params, state.discriminators), config)
    features, end = bound.features(x)
    _, rest = bound.quantizer.residual(features, end)
    sounds = jnp.arange(rest.shape[1]) < end[:, None]
    rest = jnp.where(sounds[..., None], rest, jnp.nan).reshape(-1, rest.shape[-1])
    book, ema = F.kmeans(keys[1], rest, codec.codebook_size)

    def written(tree):
      decoder = tree["decoder"] | {"latent_scale": 1 / jnp.sqrt(variance)}
      quantizer = tree["quantizer"] | {"centroids": centroids}
      return _with_book(tree | {"decoder": decoder, "quantizer": quantizer}, book[None])

    ema = jax.tree.map(lambda leaf: leaf[None], ema)
    return written(state.params), written(state.average), ema

  found = [seen(state, place(data[i])) for i in wanted]
  rows = jnp.concatenate([rows for rows, _ in found])
  variance = jnp.stack([variance for _, variance in found]).mean()
  params, average, ema = start(state, rows, variance, place(data[step]))
  new = state._replace(params=params, average=average, ema=ema)
  # Placed as they were: the step is compiled for that.
  return jax.tree.map(lambda a, b: jax.device_put(a, b.sharding), new, state)
