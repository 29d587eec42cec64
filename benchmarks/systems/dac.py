"""DAC's look-up in miniature: by angle among few dimensions against all dimensions of the latent.

Command: python -m benchmarks.systems.dac --data SPEECH_DIR

SPEECH_DIR holds `speech_train.tar` and `speech_test.tar`. Arms have the same encoder and decoder, 8
codebooks of 256 entries that learn by gradient, from no k-means and with no restarts, as DAC's do,
steps, crops and optimizer. "Dropout" is that half of the rows draw from 1 to 8 codebooks.
"Perplexity" is the mean over codebooks on the test clips, "used" the share of all entries that
occur in them. Means and standard deviations over seeds.
"""

import argparse
import dataclasses
import pathlib

import numpy as np

from benchmarks.systems import short_runs
from jaxcodec import terminal
from jaxcodec.audio.dac import Dac, bitrates
from jaxcodec.bottlenecks import ResidualVQ
from jaxcodec.decoders.dac import DacDecoder
from jaxcodec.encoders.dac import DacEncoder
from jaxcodec.layers.dac import DacConfig
from jaxcodec.training.config import Quantization

NET = DacConfig(encoder_width=8, decoder_width=128, strides=(2, 4, 5, 8), dimension=64)
BOOKS, SIZE = 8, 256


class EuclideanDac(Dac):
  """DAC with entries as wide as a latent, looked up by distance."""

  def setup(self):
    self.encoder = DacEncoder(self.net)
    self.quantizer = ResidualVQ(self.num_codebooks, self.codebook_size, self.net.dimension)
    self.decoder = DacDecoder(self.net)


# (codec, whether there is dropout).
ARMS = {
  "8 dimensions by angle": (Dac, True),
  "64 by distance": (EuclideanDac, True),
  "8 by angle, no dropout": (Dac, False),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--seeds", type=int, default=3)
  options = parser.parse_args()
  configs = {name: config_of(*arm, options.steps) for name, arm in ARMS.items()}
  clips = short_runs.held_out_clips(options.data)
  rows: dict[str, list[list[float]]] = {name: [] for name in ARMS}
  sizes = {}
  for seed in range(options.seeds):
    batches = short_runs.crops(options.data, next(iter(configs.values())), seed)
    for name, config in configs.items():
      state = short_runs.train(config, batches, seed)
      sizes[name] = short_runs.num_parameters(state)
      whole, two = (short_runs.evaluate(config.codec, state, clips, n) for n in (BOOKS, 2))
      used = sum(len(np.unique(whole.codes[..., q])) for q in range(BOOKS)) / (BOOKS * SIZE)
      perplexity = short_runs.perplexity(whole.codes).mean()
      rows[name].append([whole.mel, two.mel, perplexity, used])
      terminal.say(f"seed {seed}: {name} {np.round(rows[name][-1], 3)}")
  print(
    f"{options.steps} steps of 8 x 0.38 s, {options.seeds} seeds, {BOOKS} codebooks of {SIZE}\n"
  )
  print("| look-up | parameters | mel distance, 8 codebooks | the first 2 | perplexity | used |")
  print("|---|---:|---:|---:|---:|---:|")
  for name, values in rows.items():
    cells = " | ".join(short_runs.spread(column) for column in zip(*values, strict=True))
    print(f"| {name} | {sizes[name]} | {cells} |")


def config_of(kind: type[Dac], dropout: bool, num_steps: int):
  """The run of an arm."""
  codec = kind(
    net=NET,
    sample_rate=short_runs.RATE,
    num_codebooks=BOOKS,
    codebook_size=SIZE,
    bitrates=bitrates(short_runs.RATE, 320, BOOKS, SIZE),
  )
  config = short_runs.config_of(codec, num_steps=num_steps, seconds=0.38)
  choices = (*range(1, BOOKS + 1), *(BOOKS,) * BOOKS) if dropout else ()
  return dataclasses.replace(
    config,
    quantization=Quantization(decay=0.0, active_choices=choices),
    losses=dataclasses.replace(config.losses, codebook=1.0),
  )


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
