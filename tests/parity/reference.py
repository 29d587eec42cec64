"""What comparisons with other implementations share: signals, codebooks, and when codes agree."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

# Float32 rounding of a distance: a sum over the features of a latent that is many layers deep.
TIE = 1e-5


def signal(batch: int, channels: int, length: int, rate: int, seed: int = 0) -> np.ndarray:
  """Tones, noises, clicks and silences of random length, within [-1, 1]: [batch, length, channels].

  Noises have random colour; every event has its own loudness, over 40 dB.
  """
  rng = np.random.default_rng(seed)
  x = np.zeros((batch, length, channels))
  for row in x:
    start = 0
    while start < length:
      size = min(length - start, int(rate * rng.uniform(0.02, 0.3)))
      row[start : start + size] = _event(rng, size, channels, rate)
      start += size
  return x.astype(np.float32)


def _event(rng, size: int, channels: int, rate: int) -> np.ndarray:
  kind = rng.choice(["tones", "noise", "clicks", "silence"], p=[0.4, 0.4, 0.15, 0.05])
  time = np.arange(size)[:, None] / rate
  x = np.zeros((size, channels))
  if kind == "tones":
    for _ in range(rng.integers(1, 6)):
      pitch, glide = 50 * (rate / 110) ** rng.uniform(), rng.normal(0, 2)
      phase = rng.uniform(0, 2 * np.pi, channels)
      x += rng.uniform() * np.sin(2 * np.pi * pitch * time * (1 + glide * time) + phase)
  elif kind == "noise":
    spectrum = np.fft.rfft(rng.normal(size=(size, channels)), axis=0)
    frequency = np.linspace(0, 1, len(spectrum))[:, None]
    centre, width = rng.uniform(), rng.uniform(0.02, 1)
    x += np.fft.irfft(spectrum * np.exp(-(((frequency - centre) / width) ** 2)), size, axis=0)
  elif kind == "clicks":
    x[rng.integers(0, size, max(1, size * 100 // rate))] = rng.choice([-1, 1])
  return x * 10 ** -rng.uniform(0, 2) / max(1e-9, np.abs(x).max())


def entries(z, count: int, generator):
  """Draws of a normal distribution with the mean of `z` [N, D] and 0.4 of its spread.

  At full spread a few entries near the middle would win nearly always, in so many dimensions.
  """
  mean, covariance = z.mean(dim=0), torch.cov(z.T).double()
  values, vectors = torch.linalg.eigh(covariance)
  root = (vectors * values.clamp(min=0).sqrt()).float()
  noise = torch.randn(count, z.shape[1], generator=generator)
  return mean + 0.4 * noise @ root.T


class Stage(NamedTuple):
  """A stage of a residual quantizer in float64.

  Attributes:
    distances: from a residual [D] to the distance of each code [K].
    value: from a code to what is subtracted [D].
  """

  distances: Callable[[np.ndarray], np.ndarray]
  value: Callable[[int], np.ndarray]


def euclidean(codebook) -> Stage:
  """The stage that takes the nearest entry of a codebook [K, D]."""
  return Stage(lambda z: np.sum((z - codebook) ** 2, axis=-1), lambda code: codebook[code])


def count_ties(got, want, latents, stages) -> int:
  """How many frames differ; fails unless each does where its two nearest entries tie.

  What comes after a frame's first difference codes another residual, so it is free.
  """
  assert got.shape == want.shape
  assert got.dtype == np.int32
  frames = np.argwhere((got != want).any(axis=-1))
  for frame in map(tuple, frames):
    first = int(np.argmax(got[frame] != want[frame]))
    residual = latents[frame].astype(np.float64)
    for stage, code in zip(stages[:first], want[frame][:first], strict=True):
      residual = residual - stage.value(code)
    distance = stages[first].distances(residual)
    ours, theirs = distance[got[frame][first]], distance[want[frame][first]]
    worst = max(ours, theirs) / distance.min() - 1
    assert worst <= TIE, f"frame {frame}, stage {first}: off by {worst:.1e}, which is no tie"
  return len(frames)


def share_used(codes, size: int) -> list[float]:
  """How many of `size` entries occur in each column of codes [..., Q], as a share of how many
  would in as many draws without favourites."""
  fair = size * -np.expm1(-codes[..., 0].size / size)
  return [len(np.unique(codes[..., q])) / fair for q in range(codes.shape[-1])]
