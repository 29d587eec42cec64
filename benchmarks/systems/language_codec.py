"""Language-Codec's claim in miniature: its first codebooks carry less than a residual one's first.

Command: python -m benchmarks.systems.language_codec --data SPEECH_DIR

SPEECH_DIR holds `speech_train.tar` and `speech_test.tar`. Both arms have the same network, 8
codebooks of 64 entries, 50 frames a second, steps, crops and optimizer; each row of a batch draws
3 to 8 codebooks. "Explained" is the share of the latents' energy about their mean that a codebook's
entries, about theirs, take away by themselves. "Without" is the mel distance with all codebooks
but the first. Code 0 in bits: by how often each entry occurs, and as a language model of two layers
foretells it from those before it, learnt on the codes of training speech. Means and standard
deviations over seeds.
"""

import argparse
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.systems import code_lm, short_runs
from jaxcodec import metrics, terminal
from jaxcodec.audio.language_codec import LanguageCodec
from jaxcodec.decoders.vocos import VocosConfig
from jaxcodec.layers.seanet import SEANetConfig

NET = SEANetConfig(
  num_filters=8, strides=(8, 5, 4, 2), dimension=60, num_lstm_layers=1, causal=False
)
# Bands of channels.
ARMS = {"masked channels": 3, "residual": 0}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--seeds", type=int, default=3)
  options = parser.parse_args()
  configs = {name: config_of(bands, options.steps) for name, bands in ARMS.items()}
  clips = short_runs.held_out_clips(options.data)
  read = short_runs.read_clips(options.data, configs["residual"].codec)
  rows: dict[str, list[list[float]]] = {name: [] for name in ARMS}
  for seed in range(options.seeds):
    batches = short_runs.crops(options.data, configs["residual"], seed)
    for name, config in configs.items():
      state = short_runs.train(config, batches, seed)
      whole = short_runs.evaluate(config.codec, state, clips)
      four = short_runs.evaluate(config.codec, state, clips, 4)
      shares = explained(config.codec, state, whole)
      without = without_first(config.codec, state, whole, clips)
      bits = first_bits(config.codec, state, *read, seed)
      rows[name].append([whole.mel, four.mel, without, *shares, *bits])
      terminal.say(f"seed {seed}: {name}")
  print(f"{options.steps} steps of 8 x 0.5 s, {options.seeds} seeds\n")
  columns = ["codebooks", "mel distance, 8", "4", "without the first"]
  columns += ["explained by 0", "by 1", "by 2", "code 0, bits", "foretold"]
  short_runs.print_table(columns, rows)


def explained(module, state, found: short_runs.Found) -> list[float]:
  """Of each of the first three codebooks alone."""
  z = found.latents - found.latents.mean(axis=(0, 1))
  shares = []
  for stage in range(3):
    entries = _entries(module, state.average, found.codes, jnp.arange(8) == stage)
    entries = np.asarray(entries) - np.asarray(entries).mean(axis=(0, 1))
    shares.append(float(1 - np.sum((z - entries) ** 2) / np.sum(z**2)))
  return shares


def without_first(module, state, found: short_runs.Found, clips: np.ndarray) -> float:
  """The mel distance of the clips decoded from all entries but the first codebook's."""
  z = _entries(module, state.average, found.codes, jnp.arange(8) > 0)
  signal = jax.jit(lambda params, z: module.apply({"params": params}, z, method="signal"))
  pairs = zip(clips, np.asarray(signal(state.average, z)), strict=True)
  distances = [metrics.mel_distance(x[:, 0], y[: len(x), 0], short_runs.RATE) for x, y in pairs]
  return float(np.mean(distances))


def first_bits(module, state, train, held, seed: int) -> tuple[float, float]:
  """Of codebook 0's codes: by their shares, and foretold from those before them."""
  codes = [short_runs.coded(module, state, x, 1) for x in (train, held)]
  config = code_lm.config_of("flat", 300, seed, num_codebooks=1, codebook_size=64)
  params, _ = code_lm.trained(config, list(codes[0]))
  (foretold,) = np.asarray(code_lm.model_bits(config.model, params, codes[1]))
  return float(np.log2(short_runs.perplexity(codes[1])[0])), float(foretold)


def _entries(module, params, codes, kept):
  """The sum of the entries of some codebooks; a code of -1 adds nothing."""
  codes = jnp.where(kept, codes, -1)
  variables = {"params": params}
  return module.apply(variables, codes, method=lambda codec, codes: codec.quantizer.decode(codes))


def config_of(bands: int, num_steps: int):
  """The run of an arm."""
  codec = LanguageCodec(
    net=NET,
    vocos=VocosConfig(width=64, hidden=128, num_layers=4),
    num_bands=bands,
    sample_rate=short_runs.RATE,
    num_codebooks=8,
    codebook_size=64,
    bitrates=(900, 1200, 1500, 1800, 2100, 2400),
  )
  config = short_runs.config_of(codec, num_steps=num_steps)
  quantization = dataclasses.replace(config.quantization, active_choices=(3, 4, 5, 6, 7, 8))
  return dataclasses.replace(config, quantization=quantization)


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
