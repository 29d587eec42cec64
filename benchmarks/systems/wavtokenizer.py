"""WavTokenizer's claim in miniature: one large codebook against residual ones at the same bitrate.

Command: python -m benchmarks.systems.wavtokenizer --data SPEECH_DIR

SPEECH_DIR holds `speech_train.tar` and `speech_test.tar`. All arms pay 8 bits a frame, 50 frames a
second, and have the same encoder, steps and optimizer; a step is six seconds of sound, in windows
of 3 s, the same for all, or of 1 s. In place of the attention network the arm without it has as
many more ConvNeXt blocks as make up for its parameters. "Used" is the share of all entries that
occur in the test clips, of 3 s. Means and standard deviations over seeds.
"""

import argparse
import pathlib

import numpy as np

from benchmarks.systems import short_runs
from jaxcodec import terminal
from jaxcodec.audio.wavtokenizer import WavTokenizer
from jaxcodec.decoders.vocos import VocosConfig
from jaxcodec.layers.seanet import SEANetConfig

NET = SEANetConfig(
  num_filters=8, strides=(8, 5, 4, 2), dimension=64, num_lstm_layers=1, causal=False
)
# (codebooks, entries of each, whether there is attention, blocks, seconds of a window).
ARMS = {
  "1 of 256, attention": (1, 256, True, 3, 3),
  "1 of 256": (1, 256, False, 10, 3),
  "residual, 2 of 16, attention": (2, 16, True, 3, 3),
  "1 of 256, attention, windows of 1 s": (1, 256, True, 3, 1),
}
STEP_SECONDS = 6


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=600)
  parser.add_argument("--seeds", type=int, default=3)
  options = parser.parse_args()
  configs = {name: config_of(*arm, options.steps) for name, arm in ARMS.items()}
  clips = short_runs.held_out_clips(options.data)
  found: dict[str, list[short_runs.Found]] = {name: [] for name in ARMS}
  sizes = {}
  for seed in range(options.seeds):
    for name, config in configs.items():
      state = short_runs.train(config, short_runs.crops(options.data, config, seed), seed)
      sizes[name] = short_runs.num_parameters(state)
      found[name].append(short_runs.evaluate(config.codec, state, clips))
      terminal.say(f"seed {seed}: {name}")
  print(f"{options.steps} steps of {STEP_SECONDS} s, {options.seeds} seeds, 400 bit/s\n")
  print("| codebooks | parameters | mel distance | SI-SDR, dB | used | perplexity of each |")
  print("|---|---:|---:|---:|---:|---|")
  for name, runs in found.items():
    count, size, *_ = ARMS[name]
    used = [
      sum(len(np.unique(run.codes[..., q])) for q in range(count)) / (count * size) for run in runs
    ]
    perplexity = np.mean([short_runs.perplexity(run.codes) for run in runs], axis=0)
    print(
      f"| {name} | {sizes[name]} | {short_runs.spread([run.mel for run in runs])} "
      f"| {short_runs.spread([run.snr for run in runs], 2)} | {np.mean(used):.0%} "
      f"| {', '.join(f'{p:.1f}' for p in perplexity)} |"
    )


def config_of(
  count: int, size: int, attention: bool, num_layers: int, seconds: int, num_steps: int
):
  """The run of an arm."""
  codec = WavTokenizer(
    net=NET,
    vocos=VocosConfig(width=64, hidden=128, num_layers=num_layers),
    attention=attention,
    num_groups=8,
    sample_rate=short_runs.RATE,
    num_codebooks=count,
    codebook_size=size,
    bitrates=(400,),
  )
  rows = STEP_SECONDS // seconds
  return short_runs.config_of(codec, num_steps=num_steps, batch_size=rows, seconds=seconds)


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
