"""Causal speech codec at 16 kHz, 50 latents a second, 1 to 6 kbit/s (2 to 12 codebooks of 10 bits).

Command: python -m launch.train_speech --data SPEECH_DIR --out DIR --minutes 38
"""

import dataclasses

from jaxcodec.layers.seanet import SEANetConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What a run of `launch.train_speech` needs.

  Attributes:
    bitrates: bit/s on offer.
    active_choices: numbers of codebooks that quantizer dropout draws from.
    peak_lr: of the kernels; the biases learn at `adam_share` of it.
    warmup_steps: steps before the codebooks are made from the encoder's latents.
    prior_weight: mean count of an entry in the tables that the entropy coder starts from.
    dead_share: an entry used less than this share of the mean use is restarted.
  """

  net: SEANetConfig
  num_codebooks: int
  codebook_size: int
  bitrates: tuple[int, ...]
  active_choices: tuple[int, ...]
  batch_size: int
  segment_seconds: float
  peak_lr: float
  adam_share: float
  clip_norm: float
  wave_weight: float
  commitment_weight: float
  codebook_decay: float
  dead_share: float
  prior_weight: float
  warmup_steps: int
  seed: int


def get_config() -> Config:
  # The widest strides come first: few channels at the signal's rate make it cheap on a CPU.
  net = SEANetConfig(
    num_filters=16,
    strides=(8, 5, 4, 2),
    dimension=64,
    num_lstm_layers=0,
    pad_mode="zero",
    conv_shortcut=False,
  )
  return Config(
    net=net,
    num_codebooks=12,
    codebook_size=1024,
    bitrates=(1000, 1500, 2000, 3000, 4000, 5000, 6000),
    active_choices=(2, 3, 4, 6, 8, 10, 12, 12),
    batch_size=12,
    segment_seconds=0.8,
    peak_lr=3e-3,
    adam_share=0.2,
    clip_norm=5.0,
    wave_weight=1.0,
    commitment_weight=0.25,
    codebook_decay=0.99,
    dead_share=0.1,
    prior_weight=16.0,
    warmup_steps=300,
    seed=0,
  )
