"""DAC's look-up in miniature: among eight dimensions by angle, or among all by distance.

Command: python -m benchmarks.systems.dac --data SPEECH_DIR

SPEECH_DIR holds `speech_train.tar` and `speech_test.tar`. Codecs of DAC's shape at 16 kHz, 50
frames a second, 8 codebooks of 256 entries that learn by gradient: no moving averages, k-means or
restarts. They have the same encoder, decoder, steps, crops, optimizer and losses. A third arm
learns as DAC does, half of its rows from as many codebooks as are drawn; "2" is the mel distance
from the first two. Means and standard deviations over seeds.
"""

import argparse
import pathlib

import numpy as np

from benchmarks.systems import short_runs
from jaxcodec import terminal
from jaxcodec.audio.dac import Dac, bitrates
from jaxcodec.bottlenecks import ResidualVQ
from jaxcodec.data.sound import Sound
from jaxcodec.decoders.dac import DacDecoder
from jaxcodec.encoders.dac import DacEncoder
from jaxcodec.layers.dac import DacConfig
from jaxcodec.training.config import Adam, LearningRate, Losses, Quantization, Train
from jaxcodec.training.losses import MelScales

BOOKS, SIZE = 8, 256
NET = DacConfig(encoder_width=16, decoder_width=128, strides=(2, 4, 5, 8), dimension=64)
MEL = MelScales(scales=((128, 20), (512, 40), (2048, 80)), log_l1=1.0, floor=1e-5)


class PlainDac(Dac):
  """DAC whose codebooks hold latents and are searched by distance."""

  def setup(self):
    self.encoder, self.decoder = DacEncoder(self.net), DacDecoder(self.net)
    self.quantizer = ResidualVQ(self.num_codebooks, self.codebook_size, self.net.dimension)


ALL = (BOOKS,)
# (codec, numbers of codebooks that a row draws from).
ARMS = {
  "8 dimensions, by angle": (Dac, ALL),
  "64 dimensions, by distance": (PlainDac, ALL),
  "8 dimensions, by angle, half of the rows drawn": (Dac, (*range(1, BOOKS + 1), *ALL * BOOKS)),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=1000)
  parser.add_argument("--seeds", type=int, default=3)
  options = parser.parse_args()
  configs = {name: config_of(*arm, options.steps) for name, arm in ARMS.items()}
  clips = short_runs.held_out_clips(options.data)
  rows: dict[str, list[list[float]]] = {name: [] for name in ARMS}
  for seed in range(options.seeds):
    batches = short_runs.crops(options.data, configs[next(iter(ARMS))], seed)
    for name, config in configs.items():
      state = short_runs.train(config, batches, seed)
      few, found = (short_runs.evaluate(config.codec, state, clips, q) for q in (2, BOOKS))
      use = float(np.mean(short_runs.perplexity(found.codes)))
      rows[name].append([use, few.mel, found.mel])
      terminal.say(f"seed {seed}: {name} {np.round(rows[name][-1], 3)}")
  print(f"{options.steps} steps of 8 x 0.38 s, {options.seeds} seeds; 400 bit/s a codebook\n")
  columns = "look-up", "perplexity", "mel distance, 2", "8 codebooks"
  short_runs.print_table(columns, rows)


def config_of(codec: type[Dac], drawn: tuple[int, ...], num_steps: int) -> Train:
  """The run of an arm."""
  return Train(
    name="arm",
    codec=codec(
      net=NET,
      sample_rate=short_runs.RATE,
      num_codebooks=BOOKS,
      codebook_size=SIZE,
      bitrates=bitrates(short_runs.RATE, 320, BOOKS, SIZE),
    ),
    data=Sound(segment_seconds=0.38),
    batch_size=8,
    num_steps=num_steps,
    optimizer=Adam(
      rate=LearningRate(peak=3e-4, warmup_steps=20, cosine=True), b1=0.8, b2=0.99, clip_norm=1000.0
    ),
    losses=Losses(mel=15.0, mel_scales=MEL, commitment=0.25, codebook=1.0),
    quantization=Quantization(decay=0.0, active_choices=drawn),
  )


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
