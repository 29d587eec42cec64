"""A language model over the codes of `speech-16khz` at 2 kbit/s, which continues a voice.

Commands:
  python -m launch.tokenize --codec speech-16khz --dataset SPEECH.tar --out CODES --bitrate 2000
  python -m launch.train --config configs/code_lm_speech.py --workdir DIR --set data.sources=CODES

The prompt is absent in a tenth of the rows, for guidance by it. Nothing was trained to its end yet;
docs/systems.md says what smaller ones learnt.
"""

import dataclasses

import jax.numpy as jnp

from jaxcodec.audio.code_lm import CodeLm, CodeLmConfig
from jaxcodec.data.codes import Codes
from jaxcodec.training.config import Adam, LearningRate
from jaxcodec.training.sequences import TrainCodes


def get_config() -> TrainCodes:
  net = CodeLmConfig(width=384, num_heads=6, hidden=1024, num_layers=6)
  return TrainCodes(
    name="code-lm-speech",
    model=CodeLm(net=net, num_codebooks=4, codebook_size=1024, pattern="delay"),
    data=Codes(read=100, written=200),
    batch_size=32,
    num_steps=20_000,
    optimizer=Adam(
      rate=LearningRate(peak=1e-3, warmup_steps=500, cosine=True),
      b2=0.95,
      weight_decay=0.1,
      clip_norm=1.0,
    ),
    drop_read=0.1,
  )


def tiny() -> TrainCodes:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  net = CodeLmConfig(width=8, num_heads=2, hidden=16, num_layers=2)
  return dataclasses.replace(
    config,
    model=CodeLm(net=net, num_codebooks=2, codebook_size=8, pattern="delay"),
    data=Codes(read=3, written=4),
    compute_dtype=jnp.float32,
    batch_size=8,
    num_steps=3,
    save_every=3,
    log_every=1,
  )
