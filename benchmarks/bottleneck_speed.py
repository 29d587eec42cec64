"""One training step of each bottleneck beside vector-quantize-pytorch, same shapes, on CPU.

Command: python benchmarks/bottleneck_speed.py [--only NAME ...] [--runs 5]

A step is the quantizer alone on latents [8, 1024, 256]: output, codes, losses, their gradient with
respect to the latents and the trained parameters, given the gradient to the output, and the update
of running averages. Both take turns of five steps, of which the last three count: a step that
follows the other's pays for its spinning threads and its heap, as no training loop does. Figures
are medians. Needs torch and vector-quantize-pytorch.
"""

import argparse
import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import torch
import vector_quantize_pytorch as vqp

from jaxcodec import bottlenecks as B, functional as F, terminal

SHAPE, ENTRIES = (8, 1024, 256), 1024
UNCOUNTED, COUNTED = 2, 3  # Steps of a turn.
PLAIN = {"dim": 256, "codebook_size": ENTRIES, "threshold_ema_dead_code": 0, "decay": 0.99}


class Pair(NamedTuple):
  """Ours, theirs, and whether moving averages train the codebooks."""

  ours: object
  theirs: object
  averages: bool = False


def pairs() -> dict:
  """Functions that build each pair, so that one alone takes no other's memory."""
  groups = {"dim": 256, "groups": 2, "num_quantizers": 2, "codebook_size": ENTRIES}
  residual = PLAIN | {"num_quantizers": 4}
  return {
    "VQ, averages": lambda: Pair(
      B.VQ(ENTRIES, 256), vqp.VectorQuantize(**PLAIN, rotation_trick=False), True
    ),
    "VQ, gradient": lambda: Pair(
      B.VQ(ENTRIES, 256),
      vqp.VectorQuantize(**PLAIN, rotation_trick=False, learnable_codebook=True, ema_update=False),
    ),
    "VQ, rotation trick": lambda: Pair(
      B.VQ(ENTRIES, 256, through=F.rotate), vqp.VectorQuantize(**PLAIN, rotation_trick=True), True
    ),
    "cosine VQ": lambda: Pair(
      B.CosineVQ(ENTRIES, 256),
      vqp.VectorQuantize(**PLAIN, use_cosine_sim=True, rotation_trick=False),
      True,
    ),
    "factorised VQ, 8 wide": lambda: Pair(
      B.FactorizedRVQ(1, ENTRIES, 256, 8),
      vqp.VectorQuantize(
        **PLAIN,
        codebook_dim=8,
        learnable_codebook=True,
        ema_update=False,
        rotation_trick=False,
      ),
    ),
    "SimVQ": lambda: Pair(
      B.SimVQ(ENTRIES, 256), vqp.SimVQ(dim=256, codebook_size=ENTRIES, rotation_trick=False)
    ),
    "residual VQ, 4": lambda: Pair(
      B.ResidualVQ(4, ENTRIES, 256), vqp.ResidualVQ(**residual, rotation_trick=False), True
    ),
    "group-residual VQ, 2 x 2": lambda: Pair(
      B.GroupResidualVQ(2, 2, ENTRIES, 256),
      vqp.GroupedResidualVQ(**groups, threshold_ema_dead_code=0, rotation_trick=False),
      True,
    ),
    "product VQ, 4": lambda: Pair(
      B.GroupResidualVQ(4, 1, ENTRIES, 256),
      vqp.VectorQuantize(
        **PLAIN, heads=4, codebook_dim=64, separate_codebook_per_head=True, rotation_trick=False
      ),
      True,
    ),
    "FSQ (8, 5, 5, 5)": lambda: Pair(
      B.FSQ((8, 5, 5, 5), 256), vqp.FSQ(levels=[8, 5, 5, 5], dim=256)
    ),
    "residual FSQ, 4": lambda: Pair(
      B.ResidualFSQ(4, (8, 5, 5, 5), 256),
      vqp.ResidualFSQ(dim=256, levels=[8, 5, 5, 5], num_quantizers=4),
    ),
    "LFQ, 10 bits": lambda: Pair(
      B.LFQ(10, 256),
      vqp.LFQ(dim=256, codebook_size=ENTRIES, commitment_loss_weight=0.25),
    ),
    "residual LFQ, 4": lambda: Pair(
      B.ResidualLFQ(4, 10, 256),
      vqp.ResidualLFQ(
        dim=256, codebook_size=ENTRIES, num_quantizers=4, commitment_loss_weight=0.25
      ),
    ),
    "BSQ, 10 bits": lambda: Pair(
      B.BSQ(10, 256),
      vqp.LFQ(dim=256, codebook_size=ENTRIES, spherical=True, commitment_loss_weight=0.25),
    ),
  }


def our_step(pair: Pair):
  module = pair.ours
  z, dz = jax.random.normal(jax.random.key(0), (2, *SHAPE))
  params = jax.jit(module.init)(jax.random.key(1), z)["params"]
  ema = F.ema_state(params["codebooks"]) if pair.averages else None

  def forward(z, params):
    out = module.apply({"params": params}, z)
    losses = [out.loss, out.entropy_loss, None if pair.averages else out.codebook_loss]
    return (out.z, sum(x for x in losses if x is not None)), out

  @jax.jit
  def step(z, dz, params, ema):
    _, backward, out = jax.vjp(forward, z, params, has_aux=True)
    gradients = backward((dz, jnp.ones(())))
    if not pair.averages:
      return out, gradients, params, ema
    codebooks, ema = F.ema_update(ema, out.statistics, 0.99)
    return out, gradients[0], params | {"codebooks": codebooks}, ema

  def run():
    nonlocal params, ema
    out, gradients, params, ema = step(z, dz, params, ema)
    jax.block_until_ready((out, gradients, params, ema))

  return run


def their_step(pair: Pair):
  module = pair.theirs.train()
  z, dz = torch.randn(*SHAPE, requires_grad=True), torch.randn(*SHAPE)

  def run():
    z.grad = None
    module.zero_grad()
    out, _, *losses = module(z)
    losses = [loss.sum() for loss in losses if loss.requires_grad]
    torch.autograd.backward([out, *losses], [dz, *map(torch.ones_like, losses)])

  return run


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", nargs="*", default=None)
  parser.add_argument("--runs", type=int, default=5, help="turns of each")
  options = parser.parse_args()
  print("| bottleneck | ours, ms | vector-quantize-pytorch, ms | ratio |")
  print("|---|---:|---:|---:|")
  ratios = []
  for name, build in pairs().items():
    if options.only and name not in options.only:
      continue
    pair = build()
    steps = our_step(pair), their_step(pair)
    spent = [[], []]
    for step in steps:
      step()
    for _ in range(options.runs):
      for step, times in zip(steps, spent, strict=True):
        for _ in range(UNCOUNTED):
          step()
        for _ in range(COUNTED):
          start = time.perf_counter()
          step()
          times.append(1e3 * (time.perf_counter() - start))
    ours, theirs = map(statistics.median, spent)
    ratios.append(theirs / ours)
    print(f"| {name} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.2f} |", flush=True)
  print(f"\nMedian of the ratios: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
