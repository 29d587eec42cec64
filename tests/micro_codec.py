"""A codec of three layers a side at 8 kHz, with drawn weights: compiles in a moment."""

import pathlib

import jax.numpy as jnp
import numpy as np
from random_params import draw_params

import jaxcodec
from jaxcodec.audio.encodec import Encodec
from jaxcodec.codec import Codec
from jaxcodec.layers.seanet import SEANetConfig

MODULE = Encodec(
  net=SEANetConfig(
    num_filters=2,
    strides=(4,),
    dimension=4,
    num_residual_layers=0,
    num_lstm_layers=0,
    kernel_size=3,
    last_kernel_size=3,
    pad_mode="zero",
  ),
  sample_rate=8000,
  num_codebooks=2,
  codebook_size=8,
  bitrates=(6000, 12_000),
)


def codec() -> Codec:
  params = draw_params(MODULE, jnp.zeros((1, 8, 1)))
  # As far apart as the latents of quiet sounds are.
  params["quantizer"]["codebooks"] *= 0.1
  prior = np.ones((2, 8), np.int32)
  return Codec(module=MODULE, params=params, prior=jnp.asarray(prior), name="micro")


def save(path: pathlib.Path) -> None:
  jaxcodec.save(codec(), path)
