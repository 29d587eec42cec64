"""The smallest run that has every part: two layers a side, waves of 64 samples."""

import dataclasses

import numpy as np
import soundfile

from jaxcodec.audio.encodec import Encodec
from jaxcodec.data.sound import Sound
from jaxcodec.layers.seanet import SEANetConfig
from jaxcodec.training.config import Adam, LearningRate, Losses, Quantization, Train

NET = SEANetConfig(
  num_filters=2,
  strides=(4,),
  dimension=4,
  num_residual_layers=0,
  num_lstm_layers=0,
  kernel_size=3,
  last_kernel_size=3,
  pad_mode="zero",
)
CODEC = Encodec(net=NET, sample_rate=8000, num_codebooks=2, codebook_size=8, bitrates=(12_000,))


def config(**changes) -> Train:
  base = Train(
    name="micro",
    codec=CODEC,
    data=Sound(segment_seconds=0.008),
    batch_size=8,
    num_steps=6,
    optimizer=Adam(rate=LearningRate(peak=1e-2)),
    losses=Losses(l1=1.0),
    quantization=Quantization(active_choices=(1, 2), dead_share=0.1, restart_every=2),
    save_every=2,
    log_every=1,
  )
  return dataclasses.replace(base, **changes)


def batch(seed: int = 0, rows: int = 8) -> np.ndarray:
  return np.random.default_rng(seed).normal(0, 0.1, (rows, 64, 1)).astype(np.float32)


def write_sounds(folder) -> str:
  """Three short files of noise at 8 and 11.025 kHz."""
  rng = np.random.default_rng(0)
  for name, rate in (("a", 8000), ("b", 8000), ("c", 11_025)):
    soundfile.write(folder / f"{name}.wav", rng.normal(0, 0.1, rate // 4), rate)
  return str(folder)
