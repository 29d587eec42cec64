"""EnCodec in miniature: one model serves a ladder of rates, and a prior shortens its codes.

Command: python -m benchmarks.systems.encodec --data SPEECH_DIR

SPEECH_DIR holds `speech_train.tar` and `speech_test.tar`. A SEANet codec with 8 codebooks of 256
entries learns once with all of them and once with 1, 2, 4 or 8 drawn for each row; both decode the
test clips from the first 1, 2, 4 and 8. A language model of two layers then learns the codes of
16 minutes of training speech, in the delay pattern; "foretold" is what it makes of the test
clips' 8 bits a code. Means and standard deviations over seeds.
"""

import argparse
import dataclasses
import pathlib

import numpy as np

from benchmarks.systems import code_lm, short_runs
from jaxcodec import terminal
from jaxcodec.audio.encodec import Encodec
from jaxcodec.layers.seanet import SEANetConfig

BOOKS, SIZE, LADDER = 8, 256, (1, 2, 4, 8)
# Numbers of codebooks that a row draws from.
ARMS = {"1, 2, 4 or 8 drawn": LADDER, "all 8": ()}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--seeds", type=int, default=3)
  options = parser.parse_args()
  configs = {name: config_of(drawn, options.steps) for name, drawn in ARMS.items()}
  clips = short_runs.held_out_clips(options.data)
  read = short_runs.read_clips(options.data, configs["all 8"].codec)
  rows: dict[str, list[list[float]]] = {name: [] for name in ARMS}
  for seed in range(options.seeds):
    batches = short_runs.crops(options.data, configs["all 8"], seed)
    for name, config in configs.items():
      state = short_runs.train(config, batches, seed)
      found = [short_runs.evaluate(config.codec, state, clips, count).mel for count in LADDER]
      rows[name].append([*found, foretold(config.codec, state, *read, seed)])
      terminal.say(f"seed {seed}: {name} {np.round(rows[name][-1], 3)}")
  print(f"{options.steps} steps of 8 x 0.5 s, {options.seeds} seeds; 400 bit/s a codebook\n")
  columns = "learnt with", "mel distance, 1", "2", "4", "8 codebooks", "foretold, bits a code"
  short_runs.print_table(columns, rows)


def foretold(module, state, train: np.ndarray, held: np.ndarray, seed: int) -> float:
  """Mean bits of a code of the held-out clips."""
  codes = [short_runs.coded(module, state, x) for x in (train, held)]
  config = code_lm.config_of("delay", 300, seed, BOOKS, SIZE)
  params, _ = code_lm.trained(config, list(codes[0]))
  return float(np.mean(code_lm.model_bits(config.model, params, codes[1])))


def config_of(drawn: tuple[int, ...], num_steps: int):
  """The run of an arm."""
  codec = Encodec(
    net=SEANetConfig(num_filters=8, strides=(8, 5, 4, 2), dimension=64, num_lstm_layers=1),
    sample_rate=short_runs.RATE,
    num_codebooks=BOOKS,
    codebook_size=SIZE,
    bitrates=tuple(400 * count for count in range(1, BOOKS + 1)),
  )
  config = short_runs.config_of(codec, num_steps=num_steps)
  quantization = dataclasses.replace(config.quantization, active_choices=drawn)
  return dataclasses.replace(config, quantization=quantization)


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
