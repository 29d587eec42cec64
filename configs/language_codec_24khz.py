"""Language-Codec at 24 kHz, 75 frames a second, 2.25 to 6 kbit/s (3 to 8 codebooks of 10 bits).

Command: python -m launch.train --config configs/language_codec_24khz.py --workdir DIR \\
  --set data.sources=SPEECH

Source: https://arxiv.org/abs/2402.12208; configs/languagecodec_mm.yaml of its code. It differs from
the source as configs/wavtokenizer_24khz.py does; besides, each row draws its own number of
codebooks, where the source draws one for the batch.
"""

import dataclasses

import jax.numpy as jnp

from configs.wavtokenizer_24khz import ADVERSARY, JUDGES, LOSSES, OPTIMIZER
from jaxcodec.audio.dac import bitrates
from jaxcodec.audio.language_codec import LanguageCodec
from jaxcodec.data.sound import Sound
from jaxcodec.decoders.vocos import VocosConfig
from jaxcodec.layers.seanet import SEANetConfig
from jaxcodec.training.config import Quantization, Train, small


def get_config() -> Train:
  codec = LanguageCodec(
    net=SEANetConfig(causal=False),
    vocos=VocosConfig(width=384, hidden=1152),
    sample_rate=24_000,
    num_codebooks=8,
    codebook_size=1024,
    bitrates=bitrates(24_000, 320, 8, 1024)[2:],
  )
  return Train(
    name="language-codec-24khz",
    codec=codec,
    data=Sound(segment_seconds=1.0, repeated=True, peak_db=(-6.0, -1.0)),
    batch_size=100,
    num_steps=1_000_000,
    optimizer=OPTIMIZER,
    losses=LOSSES,
    adversary=ADVERSARY,
    quantization=Quantization(
      kmeans_batches=1, active_choices=(3, 4, 5, 6, 7, 8), dead_share=0.1, restart_every=100
    ),
    compute_dtype=jnp.bfloat16,
    samples_every=2000,
  )


def tiny() -> Train:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  net = dataclasses.replace(
    config.codec.net, num_filters=2, strides=(8,), dimension=6, num_lstm_layers=1
  )
  codec = config.codec.clone(
    net=net,
    vocos=VocosConfig(width=8, hidden=8, num_layers=1, window_length=32),
    num_codebooks=4,
    codebook_size=8,
    bitrates=(27_000, 36_000),
  )
  config = dataclasses.replace(
    config, quantization=dataclasses.replace(config.quantization, active_choices=(3, 4))
  )
  return small(config, codec, Sound(segment_seconds=0.02), *JUDGES)
