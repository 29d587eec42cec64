"""What a run of training is, as frozen dataclasses; one for each concern."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import optax
import optax.contrib
from jax.sharding import PartitionSpec as P

from jaxcodec.codec import CodecModule
from jaxcodec.data.pictures import Pictures
from jaxcodec.data.sound import Sound
from jaxcodec.data.taught import TaughtSound
from jaxcodec.data.videos import Videos
from jaxcodec.training import losses
from jaxcodec.training.distillation import Distillation


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningRate:
  """A learning rate over steps.

  Attributes:
    peak: its largest value.
    warmup_steps: steps from zero to it, on a line.
    decay: what each step multiplies it by.
    cosine: whether half a cosine to zero over the run is another factor.
  """

  peak: float
  warmup_steps: int = 0
  decay: float = 1.0
  cosine: bool = False

  def schedule(self, num_steps: int) -> optax.Schedule:
    def rate(step):
      value = self.peak * self.decay**step
      if self.warmup_steps:
        value *= jnp.minimum(1.0, (step + 1) / self.warmup_steps)
      return value * (0.5 + 0.5 * jnp.cos(math.pi * step / num_steps)) if self.cosine else value

    return rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam:
  """Adam, with decoupled weight decay.

  Attributes:
    clip_norm: of all gradients together.
  """

  rate: LearningRate
  b1: float = 0.9
  b2: float = 0.999
  weight_decay: float = 0.0
  clip_norm: float = math.inf

  def transformation(self, num_steps: int) -> optax.GradientTransformation:
    rate = self.rate.schedule(num_steps)
    adam = optax.adamw(rate, self.b1, self.b2, weight_decay=self.weight_decay)
    return _clipped(adam, self.clip_norm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon:
  """Muon for convolution kernels [..., in, out], matrices from all but the last to out; Adam else.

  It reaches in 300 steps of a SEANet what takes Adam several times as many.

  Attributes:
    rate: of the kernels; the rest learns at `adam_share` of it.
    clip_norm: of all gradients together.
  """

  rate: LearningRate
  adam_share: float = 0.2
  clip_norm: float = math.inf

  def transformation(self, num_steps: int) -> optax.GradientTransformation:
    def dimensions(params):
      import jax

      def of(path, p):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if not name.endswith("kernel") or p.ndim < 3 or p.shape[-1] == 1:
          return None
        axes = tuple(range(p.ndim - 1))
        return optax.contrib.MuonDimensionNumbers(reduction_axis=axes, output_axis=p.ndim - 1)

      return jax.tree_util.tree_map_with_path(of, params)

    rate = self.rate.schedule(num_steps)
    muon = optax.contrib.muon(
      rate,
      adam_learning_rate=lambda step: self.adam_share * rate(step),
      muon_weight_dimension_numbers=dimensions,
      consistent_rms=0.2,
    )
    return _clipped(muon, self.clip_norm)


def _clipped(optimizer, norm: float) -> optax.GradientTransformation:
  return optimizer if norm == math.inf else optax.chain(optax.clip_by_global_norm(norm), optimizer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Losses:
  """Weights of the terms; a term of weight 0 is not computed.

  Attributes:
    l1, l2, wave: of the wave, see `losses.l1`, `l2`, `relative_error`.
    mel, mel_scales: see `losses.mel_loss`.
    stft: see `losses.stft_loss`.
    perceptual, perceptual_loss: a function `(x, y) -> scalar` of the caller's own.
    adversarial, features: of the discriminators.
    commitment, codebook, entropy, rate: of the bottleneck; see `bottlenecks.Quantized`. `rate` is
      of the mean of its bits.
    distillation: of the teachers' loss, see `Train.distillation`.
    balanced: decay of EnCodec's balancer, which then makes the weights of all terms but the
      bottleneck's shares of the gradient; 0 for plain weights.
    adaptive: whether `adversarial` is multiplied by VQGAN's weight, found at the decoder's last
      kernel.
  """

  l1: float = 0.0
  l2: float = 0.0
  wave: float = 0.0
  mel: float = 0.0
  mel_scales: losses.MelScales = losses.DAC_MEL
  stft: float = 0.0
  perceptual: float = 0.0
  perceptual_loss: Callable[[Any, Any], Any] | None = None
  adversarial: float = 0.0
  features: float = 0.0
  commitment: float = 0.25
  codebook: float = 0.0
  entropy: float = 0.0
  rate: float = 0.0
  distillation: float = 0.0
  balanced: float = 0.0
  adaptive: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversary:
  """Discriminators and how they learn.

  Attributes:
    discriminators: modules of `training.discriminators`.
    loss: of logits.
    summed: whether parts and layers are summed as in DAC, or averaged.
    update_share: share of steps, drawn at random, that update the discriminators.
    start_step: the codec learns from them from there on, and they learn.
    r1: weight of the gradient penalty.
  """

  discriminators: tuple[nn.Module, ...]
  optimizer: Adam
  loss: losses.GanLoss = losses.HINGE
  summed: bool = False
  update_share: float = 1.0
  start_step: int = 0
  r1: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization:
  """How codebooks come to be.

  Attributes:
    decay: of their moving averages; 0 to train them by gradient (give `Losses.codebook` a weight).
    start_step: until there the decoder is given latents that were not quantized.
    kmeans_batches: batches whose latents make the codebooks at `start_step`; 0 for none.
    active_choices: numbers of codebooks that each row draws from; () for all of them.
    pass_share: share of rows whose latents reach the decoder unquantized.
    dead_share: an entry used less than this share of the mean use is restarted; 0 for never.
    restart_every: steps between looks for such entries.
    restart_until: share of the run after which none is restarted.
  """

  decay: float = 0.99
  start_step: int = 0
  kmeans_batches: int = 0
  active_choices: tuple[int, ...] = ()
  pass_share: float = 0.0
  dead_share: float = 0.0
  restart_every: int = 50
  restart_until: float = 0.8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
  """Devices and what lies where.

  Attributes:
    data, fsdp, model: sizes of the axes; -1, for one of them, takes the devices that are left.
    rules: (regular expression of a parameter's path, its PartitionSpec), the first that is found
      counts. A parameter without one is split along its largest axis that `fsdp` divides.
    fsdp_smallest: elements of an array below which splitting it costs more than it saves.
    gather_once: whether a step gathers all weights at its start, in `compute_dtype`, and no layer
      any (ZeRO-2, where the other is ZeRO-3): less is sent, more is held. Of models of
      codes and SemantiCodec alone.
  """

  data: int = -1
  fsdp: int = 1
  model: int = 1
  rules: tuple[tuple[str, P], ...] = (
    (r"codebooks$", P(None, "model")),
    (r"^(ema/(counts|sums)|usage)$", P(None, "model")),
  )
  fsdp_smallest: int = 2**14
  gather_once: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseRun:
  """What every run has.

  Attributes:
    name: of what comes out.
    batch_size: rows of a step, over all devices and all of `accumulate`.
    accumulate: parts that a step's batch is taken in, their gradients averaged.
    remat: whether blocks are computed again on the way back, which saves the memory of what lies
      within them.
    average_decay: of the averaged weights, which come out in the end; less at first.
    stop_after: steps in a row with numbers that are not finite, after which the run stops.
    save_every, keep_last: checkpoints by steps, and how many of the last ones stay.
    log_every: steps between lines of the log.
  """

  name: str
  batch_size: int
  num_steps: int
  mesh: Mesh = Mesh()
  accumulate: int = 1
  remat: bool = False
  average_decay: float = 0.999
  seed: int = 0
  stop_after: int = 10
  save_every: int = 1000
  keep_last: int = 2
  log_every: int = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(BaseRun):
  """A run of a codec.

  Attributes:
    codec: its module.
    data: what to learn from.
    distillation: what codes learn from teachers.
    compute_dtype: of encoder, decoder and discriminators; parameters and quantizers are float32.
    input_gain: the first kernel starts larger by it and the last one smaller; speech has a root
      mean square near 0.05, and the networks should see numbers near 1.
    keep_best: how many of the best checkpoints stay.
    samples_every: steps between decoded samples; 0 for none.
  """

  codec: CodecModule
  data: Sound | Pictures | Videos | TaughtSound
  optimizer: Adam | Muon
  losses: Losses
  adversary: Adversary | None = None
  quantization: Quantization = Quantization()
  distillation: Distillation | None = None
  average_decay: float = 0.998
  compute_dtype: Any = jnp.float32
  input_gain: float = 1.0
  keep_best: int = 1
  samples_every: int = 0


def small(
  config: Train, codec: CodecModule, data: Sound | TaughtSound, *discriminators: nn.Module
) -> Train:
  """A sound codec's run with a small codec and data, and all else as small, for tests."""
  mel = dataclasses.replace(config.losses.mel_scales, scales=((128, 16),))
  adversary = config.adversary
  if adversary is not None:
    adversary = dataclasses.replace(adversary, discriminators=discriminators)
  return dataclasses.replace(
    config,
    codec=codec,
    data=data,
    losses=dataclasses.replace(config.losses, mel_scales=mel),
    adversary=adversary,
    batch_size=8,
    num_steps=3,
    save_every=3,
    log_every=1,
    samples_every=0,
  )
