"""Losses of codecs as pure functions of signals, spectra and discriminators' outputs.

Sound is [B, T, C], float32 in [-1, 1]; every loss is a float32 scalar without a weight.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec.functional import spectral


class Judgement(NamedTuple):
  """What one discriminator says of a batch.

  Attributes:
    logits: of any shape that begins with the batch, high for what it takes as real.
    features: the activations of its layers, the logits left out.
  """

  logits: jax.Array
  features: list[jax.Array]


def l1(x, y):
  """Mean absolute difference."""
  return jnp.abs(x - y).mean()


def l2(x, y):
  """Mean squared difference."""
  return jnp.square(x - y).mean()


def relative_error(x, y):
  """Mean over rows of the log of the error's energy over the signal's, in nepers; floor 0.01.

  Unlike L1 it weighs quiet rows as much as loud ones; without it phases are learnt late.
  """
  energy = jnp.mean(x**2, axis=(1, 2)) + 1e-5
  return jnp.log(jnp.mean((x - y) ** 2, axis=(1, 2)) / energy + 0.01).mean()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MelScales:
  """How spectra are compared; see `mel_loss`.

  Attributes:
    scales: (window in samples, mel bands), a window's quarter apart.
    slaney, lowest: see `functional.spectral.mel_filterbank`.
    unit_energy: whether windows have unit energy, or a peak of one.
    centred: whether the signal is reflected by half a window at its ends, so that windows are
      around their samples, or by half of what a window is longer than a hop.
    floor: of mel magnitudes before logarithms, added if `floor_added`, else the least value.
    log_l1, log_l2, linear_l1: weights of the terms.
    mean: whether scales are averaged by their weights, or summed.
  """

  scales: tuple[tuple[int, int], ...]
  slaney: bool = False
  lowest: float = 0.0
  unit_energy: bool = True
  centred: bool = False
  floor: float = 1e-5
  floor_added: bool = True
  log_l1: float = 1.0
  log_l2: float = 0.0
  linear_l1: float = 0.0
  mean: bool = True


# DAC, conf/final/44khz.yml and dac/nn/loss.py.
DAC_MEL = MelScales(
  scales=((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320)),
  slaney=True,
  unit_energy=False,
  centred=True,
  floor_added=False,
  mean=False,
)
# EnCodec, audiocraft's config/solver/compression/default.yaml.
ENCODEC_MEL = MelScales(
  scales=tuple((2**i, 64) for i in range(6, 11)), lowest=64.0, log_l1=0.0, log_l2=1.0, linear_l1=1.0
)


def mel_loss(x, y, sample_rate: int, scales: MelScales):
  """Distance of log10 mel spectra over several windows, of all channels.

  Source: DAC, https://arxiv.org/abs/2306.06546, section 3.5; EnCodec,
  https://arxiv.org/abs/2210.13438, section 3.4.
  """
  total = jnp.zeros(())
  for window, bands in scales.scales:
    filters = spectral.mel_filterbank(
      sample_rate, window, bands, slaney=scales.slaney, lowest=scales.lowest
    )
    mel_x, mel_y = (_magnitude(wave, window, scales) @ filters for wave in (x, y))
    log_x, log_y = (_log(mel, scales) for mel in (mel_x, mel_y))
    if scales.log_l1:
      total += scales.log_l1 * l1(log_x, log_y)
    if scales.log_l2:
      total += scales.log_l2 * l2(log_x, log_y)
    if scales.linear_l1:
      total += scales.linear_l1 * l1(mel_x, mel_y)
  weight = scales.log_l1 + scales.log_l2 + scales.linear_l1
  return total / (len(scales.scales) * weight) if scales.mean else total


def stft_loss(x, y, windows: Sequence[int] = (2048, 512)):
  """Distance of magnitude spectra: of log10 of their squares and of themselves, by windows.

  Source: DAC's MultiScaleSTFTLoss, after Engel et al., https://arxiv.org/abs/2001.04643.
  """
  total = jnp.zeros(())
  for window in windows:
    plain = MelScales(scales=((window, 0),), unit_energy=False, centred=True, floor_added=False)
    spectra = [_magnitude(wave, window, plain) for wave in (x, y)]
    total += 2 * l1(*(_log(s, plain) for s in spectra)) + l1(*spectra)
  return total


def _magnitude(x, window: int, scales: MelScales):
  """[B, C, frames, bins]."""
  x = jnp.moveaxis(x, -1, 1)
  hop = window // 4
  side = window // 2 if scales.centred else (window - hop) // 2
  x = jnp.pad(x, ((0, 0), (0, 0), (side, side)), mode="reflect")
  magnitude = spectral.stft_magnitude(x, window, hop)
  # The energy of a periodic Hann window is 3/8 of its length.
  return magnitude if scales.unit_energy else magnitude * (3 * window / 8) ** 0.5


def _log(magnitude, scales: MelScales):
  floored = magnitude + scales.floor if scales.floor_added else jnp.maximum(magnitude, scales.floor)
  return jnp.log10(floored)


class GanLoss(NamedTuple):
  """Losses of logits: `discriminator(real, fake)` and `generator(fake)`."""

  discriminator: Callable[[jax.Array, jax.Array], jax.Array]
  generator: Callable[[jax.Array], jax.Array]


HINGE = GanLoss(
  lambda real, fake: jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean(),
  # As in audiocraft and taming-transformers; it does not saturate as relu(1 - fake) does.
  lambda fake: -fake.mean(),
)
LEAST_SQUARES = GanLoss(
  lambda real, fake: jnp.square(1 - real).mean() + jnp.square(fake).mean(),
  lambda fake: jnp.square(1 - fake).mean(),
)


def feature_loss(real: Sequence[Judgement], fake: Sequence[Judgement]):
  """L1 between the activations on real and decoded signals: the sum over layers, and their number.

  The real side carries no gradient. Source: MelGAN, https://arxiv.org/abs/1910.06711.
  """
  total, count = jnp.zeros(()), 0
  for a, b in zip(real, fake, strict=True):
    for wanted, found in zip(a.features, b.features, strict=True):
      total += l1(jax.lax.stop_gradient(wanted).astype(jnp.float32), found.astype(jnp.float32))
      count += 1
  return total, count


def gradient_penalty(logits_of: Callable, x):
  """R1: half the squared gradient of the summed logits by real signals, mean over rows.

  Source: Mescheder et al., https://arxiv.org/abs/1801.04406, equation 9.
  """
  gradient = jax.grad(lambda x: sum(logits.sum() for logits in logits_of(x)))(x)
  return 0.5 * jnp.square(gradient).reshape(x.shape[0], -1).sum(axis=1).mean()


class BalancerState(NamedTuple):
  """Running means of the size of each term's gradient, and how much of them has come in.

  Attributes:
    norms: a float32 scalar of each term.
    weight: what the means' weights add up to; it corrects the bias of a start at zero.
  """

  norms: dict[str, jax.Array]
  weight: jax.Array


def balance(
  state: BalancerState,
  gradients: dict[str, jax.Array],
  weights: Mapping[str, float | jax.Array],
  decay: float = 0.999,
) -> tuple[jax.Array, BalancerState]:
  """One gradient by the decoded signal in which each term has its share, whatever its scale.

  g = sum_i w_i / (sum w) g_i / n_i, where n_i is the running mean of the L2 norm of g_i, taken of
  each row and averaged. Source: EnCodec, https://arxiv.org/abs/2210.13438, section 3.4.
  """
  norms = {}
  for name, gradient in gradients.items():
    rows = jnp.sqrt(jnp.square(gradient).reshape(gradient.shape[0], -1).sum(axis=1))
    norms[name] = decay * state.norms[name] + (1 - decay) * rows.mean()
  weight = decay * state.weight + (1 - decay)
  total = sum(weights[name] for name in gradients)
  parts = [
    gradient * (weights[name] / jnp.maximum(total, 1e-12)) / (1e-12 + norms[name] / weight)
    for name, gradient in gradients.items()
  ]
  return sum(parts[1:], parts[0]), BalancerState(norms, weight)


def adaptive_weight(reconstruction, adversarial, most: float = 1e4):
  """VQGAN's weight of the adversarial term, from both terms' gradients by the last kernel.

  |reconstruction| / (|adversarial| + 1e-4), held still. Source: Esser et al.,
  https://arxiv.org/abs/2012.09841, equation 7.
  """
  norm = jnp.linalg.norm
  ratio = norm(reconstruction.ravel()) / (norm(adversarial.ravel()) + 1e-4)
  return jax.lax.stop_gradient(jnp.clip(ratio, 0, most))
