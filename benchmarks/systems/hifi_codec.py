"""HiFi-Codec's claim in miniature: four codes in two groups against plain residual codes.

Command: python -m benchmarks.systems.hifi_codec --data SPEECH_DIR

SPEECH_DIR holds `speech_train.tar` and `speech_test.tar`. Every arm has the same encoder and
decoder, steps, crops and optimizer, and codebooks of 64 entries that are moving averages, unless
said otherwise. Means and standard deviations over seeds; "shared" is what the first two codes of a
frame say of each other, in bits; "coded" the bits of a frame under counts so far, each code's given
the one before it.
"""

import argparse
import dataclasses
import pathlib

import numpy as np

from benchmarks.systems import short_runs
from jaxcodec import terminal
from jaxcodec.audio.hifi_codec import HiFiCodec, HiFiConfig

NET = HiFiConfig(
  encoder_width=8,
  decoder_width=64,
  strides=(4, 8, 10),
  kernel_sizes=(8, 16, 20),
  block_kernels=(3,),
  dilations=(1,),
  group_width=4,
  dimension=64,
)
# (groups, stages, whether gradients train the codebooks).
ARMS = {
  "2 groups of 2": (2, 2, False),
  "4 groups of 1": (4, 1, False),
  "residual, 4": (1, 4, False),
  "residual, 8": (1, 8, False),
  "2 groups of 2, by gradient": (2, 2, True),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
  options = parser.parse_args()
  configs = {name: config_of(*ARMS[name], options.steps) for name in options.arms}
  clips = short_runs.held_out_clips(options.data)
  found: dict[str, list[short_runs.Found]] = {name: [] for name in configs}
  sizes = {}
  for seed in range(options.seeds):
    batches = short_runs.crops(options.data, next(iter(configs.values())), seed)
    for name, config in configs.items():
      state = short_runs.train(config, batches, seed)
      sizes[name] = short_runs.num_parameters(state)
      terminal.say(f"seed {seed}: {name}")
      found[name].append(short_runs.evaluate(config.codec, state, clips))
  print(f"{options.steps} steps of 8 x 0.5 s, {options.seeds} seeds\n")
  print(
    "| codes | bit/s | parameters | mel distance | SI-SDR, dB | perplexity of each "
    "| shared | coded |"
  )
  print("|---|---:|---:|---:|---:|---|---:|---:|")
  for name, runs in found.items():
    groups, stages, _ = ARMS[name]
    used = np.mean([short_runs.perplexity(run.codes) for run in runs], axis=0)
    shared = [short_runs.shared_bits(run.codes[..., 0], run.codes[..., 1]) for run in runs]
    coded = [short_runs.adaptive_bits(run.codes, 64) for run in runs]
    print(
      f"| {name} | {groups * stages * 6 * 50} | {sizes[name]} "
      f"| {short_runs.spread([run.mel for run in runs])} "
      f"| {short_runs.spread([run.snr for run in runs], 2)} "
      f"| {', '.join(f'{u:.0f}' for u in used)} | {short_runs.spread(shared, 2)} "
      f"| {short_runs.spread(coded, 1)} |"
    )


def config_of(groups: int, stages: int, by_gradient: bool, num_steps: int):
  """The run of an arm."""
  count = groups * stages
  codec = HiFiCodec(
    net=NET,
    sample_rate=short_runs.RATE,
    num_codebooks=count,
    codebook_size=64,
    num_groups=groups,
    bitrates=(count * 300,),
  )
  config = short_runs.config_of(codec, num_steps=num_steps)
  if not by_gradient:
    return config
  quantization = dataclasses.replace(
    config.quantization, decay=0.0, kmeans_batches=0, dead_share=0.0
  )
  losses = dataclasses.replace(config.losses, codebook=1.0)
  return dataclasses.replace(config, quantization=quantization, losses=losses)


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
