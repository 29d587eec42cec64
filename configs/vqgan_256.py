"""VQGAN for pictures of 256 x 256: 256 codes of 10 bits each; 300M parameters.

Command: python -m launch.train --config configs/vqgan_256.py --workdir DIR \\
  --set data.sources=PICTURES

Source: https://arxiv.org/abs/2012.09841 and configs/imagenet_vqgan.yaml of its code, whose networks
are half as wide (`--set codec.net.width=128`). Codebooks are moving averages here and are begun by
k-means, when the network has learnt for as long as its rate rises. The perceptual loss needs a
network's weights, which do not come with this package: set `Losses.perceptual_loss` in a file of
your own; without one, pixels and the discriminator remain.
"""

import dataclasses

import jax.numpy as jnp

from jaxcodec.data.pictures import Pictures
from jaxcodec.image.vqgan import Vqgan
from jaxcodec.layers.vqgan import VqganConfig
from jaxcodec.training.config import Adam, Adversary, LearningRate, Losses, Quantization, Train
from jaxcodec.training.discriminators import PatchGAN


def get_config() -> Train:
  # 4.5e-6 for each of the 96 rows.
  optimizer = Adam(rate=LearningRate(peak=4.3e-4, warmup_steps=1000), b1=0.5, b2=0.9)
  return Train(
    name="vqgan-256",
    codec=Vqgan(net=VqganConfig(width=256), codebook_size=1024, codebook_features=256),
    data=Pictures(size=(256, 256), short_side=256),
    batch_size=96,
    num_steps=500_000,
    optimizer=optimizer,
    losses=Losses(l1=1.0, adversarial=0.8, adaptive=True, commitment=0.25),
    adversary=Adversary(
      discriminators=(PatchGAN(dtype=jnp.bfloat16),), optimizer=optimizer, start_step=250_001
    ),
    # Quantized from the start, latents shrink to their entries before they say much of a picture.
    quantization=Quantization(
      start_step=1000, kmeans_batches=4, dead_share=0.01, restart_every=100
    ),
    remat=True,
    compute_dtype=jnp.bfloat16,
    samples_every=2000,
  )


def tiny() -> Train:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  net = VqganConfig(
    width=4, multipliers=(1, 2), num_blocks=1, attention_levels=(), latent_width=4, groups=2
  )
  return dataclasses.replace(
    config,
    codec=Vqgan(net=net, codebook_size=8, codebook_features=4),
    data=Pictures(size=(16, 16), short_side=16),
    adversary=dataclasses.replace(
      config.adversary, discriminators=(PatchGAN(layers=1, width=4),), start_step=1
    ),
    quantization=Quantization(kmeans_batches=1),
    remat=False,
    compute_dtype=jnp.float32,
    batch_size=8,
    num_steps=3,
    save_every=3,
    log_every=1,
    samples_every=3,
  )
