"""One tiny instance of every bottleneck, with the shape of its latents."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from random_params import draw_params

from jaxcodec import bottlenecks, functional as F


class Case(NamedTuple):
  """`z` is the shape of a batch of latents of `module`."""

  module: object
  z: tuple[int, ...]

  @property
  def is_picture(self) -> bool:
    return isinstance(self.module, bottlenecks.MultiScaleVQ)

  @property
  def keeps_latents(self) -> bool:
    """Whether the output stands for the latent itself, and passes a gradient to it."""
    return not isinstance(self.module, bottlenecks.KeyValueBottleneck)


B = bottlenecks
ROWS = (3, 5, 6)
CASES = {
  "vq": Case(B.VQ(8, 6), ROWS),
  "vq, rotated": Case(B.VQ(8, 6, through=F.rotate), ROWS),
  "cosine": Case(B.CosineVQ(8, 6), ROWS),
  "simvq": Case(B.SimVQ(8, 6), ROWS),
  "transfer": Case(B.TransferVQ(9, 5, 6), ROWS),
  "transfer, hidden": Case(B.TransferVQ(9, 5, 6, hidden=4), ROWS),
  "residual": Case(B.ResidualVQ(3, 8, 6), ROWS),
  "residual, shared": Case(B.ResidualVQ(3, 8, 6, shared=True), ROWS),
  "masked channels": Case(B.ResidualVQ(5, 8, 6, num_bands=3), ROWS),
  "groups": Case(B.GroupResidualVQ(2, 2, 8, 6), ROWS),
  "product": Case(B.GroupResidualVQ(3, 1, 8, 6), ROWS),
  "factorised": Case(B.FactorizedRVQ(2, 8, 6, 3), ROWS),
  "split": Case(B.SplitRVQ(3, 8, 4, 6), ROWS),
  "multi-scale": Case(B.MultiScaleVQ(8, 6, (1, 2, 3), 2), (3, 3, 3, 6)),
  "fsq": Case(B.FSQ((4, 5, 3), 6), ROWS),
  "fsq, bare": Case(B.FSQ((4, 5, 3, 3, 4, 3), 6), ROWS),
  "residual fsq": Case(B.ResidualFSQ(2, (4, 3), 6), ROWS),
  "lfq": Case(B.LFQ(4, 6), ROWS),
  "residual lfq": Case(B.ResidualLFQ(2, 6, 6), ROWS),
  "bsq": Case(B.BSQ(6, 6), ROWS),
  "latent": Case(B.LatentQuantizer(5, 6), ROWS),
  "key-value": Case(B.KeyValueBottleneck(2, 8, 3, 4, 6), ROWS),
  "entropy": Case(B.EntropyBottleneck(6, reach=20), ROWS),
  "features": Case(B.CodebookFeatures(8, 6, 2), ROWS),
}


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def latents(case: Case, seed=0):
  return normal(*case.z, seed=seed)


@functools.cache
def variables(name: str):
  case = CASES[name]
  example = jax.ShapeDtypeStruct(case.z, np.float32)
  if not jax.eval_shape(case.module.init, jax.random.key(0), example):
    return {"params": {}}
  return {"params": draw_params(case.module, example)}


class Outcome(NamedTuple):
  """All that a bottleneck makes of latents, and the gradients of its output and losses."""

  codes: jax.Array
  decoded: jax.Array
  out: bottlenecks.Quantized
  to_z: jax.Array
  to_params: dict


def outcome(name: str, z, mask=None, seed=1) -> Outcome:
  """One compiled program a case and shape, as compiling is what tests spend their time on."""
  z = np.asarray(z)
  mask = np.ones(z.shape[:-1], bool) if mask is None else mask
  return _program(name)(variables(name)["params"], z, mask, seed)


@functools.cache
def _program(name: str):
  module = CASES[name].module

  def run(params, z, mask, seed):
    def loss(params, z):
      out = module.apply({"params": params}, z, mask)
      weight = jnp.sin(seed + jnp.arange(out.z.size)).reshape(out.z.shape)
      bits = None if out.bits is None else out.bits.sum()
      extra = [x for x in (out.codebook_loss, out.entropy_loss, bits) if x is not None]
      return jnp.vdot(weight, out.z) + out.loss + sum(extra), out

    (to_params, to_z), out = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, z)
    codes = module.apply({"params": params}, z, method="encode")
    decoded = module.apply({"params": params}, codes, method="decode")
    return Outcome(codes, decoded, out, to_z, to_params)

  return jax.jit(run)
