"""An encoder-decoder Transformer of 1.1 billion parameters that goes on after 512 frames of codes.

Command: python -m launch.train --config configs/code_transformer_1b.py --workdir DIR \\
  --set data.sources=CODES

CODES is what `launch.tokenize` wrote of a codec with at least 8 codebooks of 1024 entries. Nothing
was trained to its end yet.
"""

import dataclasses

import jax.numpy as jnp

from jaxcodec.audio.code_transformer import CodeTransformer
from jaxcodec.data.codes import Codes
from jaxcodec.layers.encoder_decoder import EncoderDecoderConfig
from jaxcodec.training.config import Adam, LearningRate
from jaxcodec.training.sequences import MESH, TrainCodes


def get_config() -> TrainCodes:
  net = EncoderDecoderConfig(
    width=1536, num_heads=24, head_width=64, hidden=4096, encoder_layers=16, decoder_layers=16
  )
  return TrainCodes(
    name="code-transformer-1b",
    model=CodeTransformer(net=net, num_codebooks=8, codebook_size=1024),
    data=Codes(read=512, written=505),
    batch_size=256,
    num_steps=200_000,
    optimizer=Adam(
      rate=LearningRate(peak=3e-4, warmup_steps=2000, cosine=True),
      b2=0.95,
      weight_decay=0.1,
      clip_norm=1.0,
    ),
    mesh=dataclasses.replace(MESH, data=1, fsdp=-1, gather_once=True),
  )


def tiny() -> TrainCodes:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  net = EncoderDecoderConfig(
    width=8, num_heads=2, head_width=4, hidden=16, encoder_layers=2, decoder_layers=2
  )
  return dataclasses.replace(
    config,
    model=CodeTransformer(net=net, num_codebooks=2, codebook_size=8),
    data=Codes(read=6, written=7),
    compute_dtype=jnp.float32,
    mesh=MESH,
    batch_size=8,
    num_steps=3,
    save_every=3,
    log_every=1,
  )
