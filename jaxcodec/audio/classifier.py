"""What kind of sound it is, with an LMUFormer: whole signals, and streams chunk by chunk."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxcodec.audio.lmuformer import LmuFormer, normalised
from jaxcodec.functional.log_mel import HOP, WINDOW, kaldi_log_mel

SAMPLE_RATE = 16_000


class Classifier(NamedTuple):
  """A network, its weights, and the names of its classes."""

  module: LmuFormer
  params: Any
  names: tuple[str, ...]


class Listening(NamedTuple):
  """What a stream remembers: samples of frames to come, and the network's state."""

  samples: Any
  network: Any


def num_frames(num_samples):
  """Frames that the samples fill."""
  return jnp.maximum(0, 1 + (num_samples - WINDOW) // HOP)


def spectra(x, bands: int, frames: int = 0):
  """Waves [B, T] to what the network takes, [B, N, bands].

  Args:
    frames: how many there are to be: zeros are added before normalising, as the source does, or the
      end is cut; 0 for those that the signal fills.
  """
  mel, _ = kaldi_log_mel(x, bands)
  if frames:
    mel = jnp.pad(mel, ((0, 0), (0, max(0, frames - mel.shape[1])), (0, 0)))[:, :frames]
  return normalised(mel)


def classify(module: LmuFormer, params, x, *, length=None, frames: int = 0):
  """Logits [B, K] of whole signals.

  Args:
    module, params: of a classifier.
    x: float32 [B, T] at 16 kHz.
    length: int [B], samples of each row, at least a frame's: each is answered as if alone; None:
      all rows are T long.
    frames: see `spectra`; published weights were trained with 128, a second and a quarter.

  Raises:
    ValueError: if `x` has another shape, or `length` and `frames` are both given.
  """
  if x.ndim != 2 or (not frames and x.shape[1] < WINDOW):
    raise ValueError(f"x must be [batch, samples], {WINDOW} of them at least, got {x.shape}")
  if frames and length is not None:
    raise ValueError("frames fill every row up to one length: give frames or length")
  mel = spectra(x, module.config.bands, frames)
  count = None if length is None else num_frames(length)
  return module.apply({"params": params}, mel, count, method="whole")


def listen(module: LmuFormer, params, x, state: Listening | None = None, *, final: bool = False):
  """The next chunk of streams: `(logits [B, n, K], state)`, what all so far say after each frame.

  A frame is answered when the five after it are there; `final` answers the rest.

  Args:
    x: float32 [B, T] at 16 kHz, any number of samples.
    state: what the chunk before returned; None at the start.
  """
  before = Listening(None, None) if state is None else state
  mel, samples = kaldi_log_mel(x, module.config.bands, before.samples)
  y, network = module.apply({"params": params}, normalised(mel), before.network, final)
  return y, Listening(samples, network)
