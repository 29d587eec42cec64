"""SemantiCodec at 16 kHz, 50 tokens a second in pairs, 0.68 kbit/s (14 and 13 bits a pair).

Command: python -m launch.train --config configs/semanticodec_16khz.py --workdir DIR \\
  --set data.sources=SOUNDS,SPEECH

The sizes of https://github.com/haoheliu/SemantiCodec-inference. Its training is not published;
rates of learning, masks and weights are those of the parts' own papers where these say them (see
training/semanticodec.py for what is different). Nothing was trained to its end yet.
"""

import dataclasses

from jaxcodec.audio.semanticodec import SemantiCodec
from jaxcodec.data.sound import Sound
from jaxcodec.decoders.hifigan import HifiGanConfig
from jaxcodec.decoders.latent_diffusion import LatentDiffusionConfig
from jaxcodec.encoders.mae import MaeConfig
from jaxcodec.layers.unet import UNetConfig
from jaxcodec.layers.vqgan import VqganConfig
from jaxcodec.training.config import Adam, LearningRate, Mesh
from jaxcodec.training.losses import MelScales
from jaxcodec.training.semanticodec import Predictor, TrainSemantic


def get_config() -> TrainSemantic:
  codec = SemantiCodec(
    sample_rate=16_000,
    num_codebooks=2,
    codebook_size=8192,
    semantic_size=16_384,
    bitrates=(675,),
    stack=2,
    lstm_layers=3,
  )
  return TrainSemantic(
    name="semanticodec-16khz",
    codec=codec,
    data=Sound(segment_seconds=10.24),
    batch_size=64,
    num_steps=600_000,
    start_step=200_000,
    optimizer=Adam(
      rate=LearningRate(peak=1e-4, warmup_steps=5000), b2=0.95, weight_decay=1e-4, clip_norm=1.0
    ),
    # 0.9 billion parameters, two thirds of them the recurrent network's: left to lie over devices,
    # they would be gathered anew at each of its steps.
    mesh=Mesh(data=1, fsdp=-1, gather_once=True),
    mel_scales=MelScales(scales=((512, 40), (1024, 64)), slaney=True),
  )


def tiny() -> TrainSemantic:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  diffusion = LatentDiffusionConfig(
    frames=32,
    bands=8,
    vae=VqganConfig(
      width=2, multipliers=(1,), num_blocks=1, attention_levels=(), latent_width=2, groups=2
    ),
    unet=UNetConfig(
      channels=2,
      width=4,
      multipliers=(1,),
      num_blocks=1,
      attention_levels=(),
      head_width=4,
      groups=2,
    ),
    vocoder=HifiGanConfig(
      width=8, strides=(10, 16), kernel_sizes=(10, 16), block_kernels=(3,), dilations=(1,)
    ),
    position_width=4,
    num_steps=2,
  )
  mae = MaeConfig(
    frames=32, bands=16, patch=4, width=8, num_heads=2, hidden=16, num_layers=1, taps=1
  )
  return dataclasses.replace(
    config,
    codec=config.codec.clone(
      codebook_size=8,
      semantic_size=8,
      bitrates=(300,),
      lstm_layers=1,
      mae=mae,
      diffusion=diffusion,
    ),
    data=Sound(segment_seconds=0.32),
    mel_scales=MelScales(scales=((128, 8),), slaney=True),
    predictor=Predictor(width=8, num_heads=2, num_layers=1),
    batch_size=4,
    num_steps=3,
    start_step=1,
    kmeans_batches=1,
    save_every=3,
    log_every=1,
  )
