"""Mimi's split quantizer in miniature: a taught first codebook beside the others, or before them.

Command: python -m benchmarks.systems.mimi --data SPEECH_DIR

SPEECH_DIR holds `speech_train.tar` and `speech_test.tar`. Codecs have Mimi's shape, 25 frames a
second, 4 codebooks of 256 entries, the same encoder and decoder, steps, crops and optimizer. WavLM
is not here: the teacher is the mean of a log-mel spectrum over seven frames of 10 ms, standardised,
and the first codebook's entries, through a linear layer, follow it frame by frame. "Split": the
first codebook and a residual quantizer of three code the latent each; "plain": one residual
quantizer of four. "Told" is the share of the teacher's variance that a linear map of the first
codebook's entries, fitted to training clips, explains on held-out ones. Means and standard
deviations over seeds.
"""

import argparse
import dataclasses
import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.systems import short_runs
from jaxcodec import functional as F, terminal
from jaxcodec.audio.dac import bitrates
from jaxcodec.audio.mimi import Mimi, MimiConfig, MimiDecoder, MimiEncoder
from jaxcodec.bottlenecks import ResidualVQ
from jaxcodec.functional.log_mel import HOP, log_mel
from jaxcodec.layers.seanet import SEANetConfig
from jaxcodec.training.distillation import Distillation

NET = MimiConfig(
  net=SEANetConfig(
    num_filters=8,
    strides=(8, 5, 4, 2),
    dimension=64,
    last_kernel_size=3,
    num_lstm_layers=0,
    pad_mode="zero",
    conv_shortcut=False,
  ),
  num_layers=2,
  num_heads=2,
  hidden=128,
  window=50,
)
BOOKS, SIZE, BANDS, CONTEXT = 4, 256, 40, 7


class SplitMimi(Mimi):
  """Mimi whose first codebook can be taught."""

  def setup(self):
    super().setup()
    self.transform = nn.Dense(BANDS)

  def first(self):
    """The first codebook [K, D], and the map of latents to what it sees."""
    return self.quantizer.semantic.codebooks[0], self.quantizer.semantic_in

  def __call__(self, x):
    codes = self.encode(x, self.num_codebooks)
    self.transform(F.lookup(codes[..., 0], self.first()[0]))
    return self.decode(codes)[:, : x.shape[1]]

  def learnt(self, z, codes, stage: int = 0):
    """See `DmCodec.learnt`; of the first stage alone."""
    del stage
    book, seen = self.first()
    given = seen(z)
    return self.transform(given + jax.lax.stop_gradient(F.lookup(codes[..., 0], book) - given))


class PlainMimi(SplitMimi):
  """The same with one residual quantizer."""

  def setup(self):
    self.encoder, self.decoder = MimiEncoder(self.config), MimiDecoder(self.config)
    self.quantizer = ResidualVQ(self.num_codebooks, self.codebook_size, self.config.net.dimension)
    self.transform = nn.Dense(BANDS)

  def first(self):
    return self.quantizer.codebooks[0], lambda z: z


# (codec, weight of the teacher).
ARMS = {
  "split, taught": (SplitMimi, 1.0),
  "plain, taught": (PlainMimi, 1.0),
  "plain, not taught": (PlainMimi, 0.0),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--seeds", type=int, default=3)
  options = parser.parse_args()
  codec = codec_of(SplitMimi)
  train, held = short_runs.read_clips(options.data, codec)
  train, clips = train[:64], short_runs.held_out_clips(options.data)
  spectra = np.asarray(jax.jit(spectrum)(train)).reshape(-1, BANDS)
  teacher = functools.partial(standardised, moments=_Moments(spectra))
  features = [np.asarray(jax.jit(teacher)(x)) for x in (train, held)]
  configs = {name: config_of(*arm, teacher, options.steps) for name, arm in ARMS.items()}
  rows: dict[str, list[list[float]]] = {name: [] for name in ARMS}
  for seed in range(options.seeds):
    batches = short_runs.crops(options.data, configs["split, taught"], seed)
    for name, config in configs.items():
      state = short_runs.train(config, batches, seed)
      found = short_runs.evaluate(config.codec, state, clips)
      variables = {"params": state.average}
      book = np.asarray(config.codec.apply(variables, method=lambda codec: codec.first()[0]))
      entries = [book[short_runs.coded(config.codec, state, x, 1)[..., 0]] for x in (train, held)]
      rows[name].append([told(entries, features), found.mel])
      terminal.say(f"seed {seed}: {name} {np.round(rows[name][-1], 3)}")
  print(f"{options.steps} steps of 4 x 1.28 s, {options.seeds} seeds; 800 bit/s\n")
  columns = "quantizer", "told by the first codebook", "mel distance, all 4"
  short_runs.print_table(columns, rows)


def spectrum(x):
  """Means of log-mel frames [B, N, BANDS] about each of the codec's frames, of sound [B, T, 1]."""
  mel = log_mel(x[..., 0], BANDS)[0]
  padded = jnp.pad(mel, ((0, 0), (CONTEXT // 2, CONTEXT // 2), (0, 0)), mode="edge")
  mean = sum(padded[:, i : i + mel.shape[1]] for i in range(CONTEXT)) / CONTEXT
  step = codec_of(SplitMimi).hop_length // HOP
  return mean[:, step // 2 :: step]


class _Moments:
  """Mean and deviation of each band; the same object is the same program."""

  def __init__(self, spectra: np.ndarray):
    self.mean, self.deviation = spectra.mean(axis=0), spectra.std(axis=0)


def standardised(x, moments: _Moments):
  return (spectrum(x) - moments.mean) / moments.deviation


def told(entries: list[np.ndarray], features: list[np.ndarray]) -> float:
  """The share of the held-out features' variance that a map of the training entries explains."""
  frames = min(entries[0].shape[1], features[0].shape[1])
  x, held = (
    short_runs.with_one(part[:, :frames]).reshape(-1, part.shape[-1] + 1) for part in entries
  )
  y, want = (part[:, :frames].reshape(-1, BANDS) for part in features)
  said = held @ short_runs.linear_map(x, y)
  return float(1 - np.mean((said - want) ** 2) / np.mean((want - want.mean(axis=0)) ** 2))


def codec_of(kind: type[Mimi]) -> Mimi:
  return kind(
    config=NET,
    sample_rate=short_runs.RATE,
    num_codebooks=BOOKS,
    codebook_size=SIZE,
    codebook_features=64,
    bitrates=bitrates(short_runs.RATE, 640, BOOKS, SIZE),
  )


def config_of(kind: type[Mimi], weight: float, teacher, num_steps: int):
  """The run of an arm."""
  codec = codec_of(kind)
  config = short_runs.config_of(codec, num_steps=num_steps, batch_size=4, seconds=1.28)
  how = Distillation(weights=(1.0,), stages=(0,), by_frame=True, teachers=(teacher,))
  return dataclasses.replace(
    config,
    losses=dataclasses.replace(config.losses, distillation=weight),
    distillation=how if weight else None,
  )


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
