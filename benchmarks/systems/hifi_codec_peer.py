"""HiFi-Codec at its published size beside its authors' program in PyTorch.

Command: python -m benchmarks.systems.hifi_codec_peer --sources DIR [--seconds 10]

DIR is a checkout of github.com/yangdongchao/AcademiCodec; of it models.py runs, with weights as it
draws them and weight norm folded, without gradients. Ours has weights of the same shapes at random;
ours is compiled, theirs eager. One row of sound, the best of three alternating runs. The machine is
measured by the product of two square matrices of 3072, float32, as XLA computes it.
"""

import argparse
import pathlib
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxcodec
from benchmarks.systems.neural_speed import drawn, work
from configs import hifi_codec_24khz
from jaxcodec import terminal

RUNS, SIDE = 3, 3072
CONFIG = {
  "resblock": "1",
  "upsample_rates": [8, 5, 4, 2],
  "upsample_kernel_sizes": [16, 11, 8, 4],
  "upsample_initial_channel": 512,
  "resblock_kernel_sizes": [3, 7, 11],
  "resblock_dilation_sizes": [[1, 3, 5]] * 3,
  "n_code_groups": 2,
  "n_codes": 1024,
  "codebook_loss_lambda": 1.0,
  "commitment_loss_lambda": 0.25,
}


def theirs(sources: pathlib.Path):
  """Encoder with quantizer, and generator from what it gives: functions of tensors."""
  utils = types.ModuleType("academicodec.utils")
  utils.get_padding = lambda kernel, dilation: (kernel * dilation - dilation) // 2
  utils.init_weights = lambda module: None
  sys.modules["academicodec.utils"] = utils
  sys.path.insert(0, str(sources / "academicodec" / "models" / "hificodec"))
  import models

  h = types.SimpleNamespace(**CONFIG)
  encoder, quantizer, generator = models.Encoder(h), models.Quantizer(h), models.Generator(h)
  encoder.remove_weight_norm()
  generator.remove_weight_norm()
  return lambda x: quantizer(encoder(x))[0], generator


def ours(seconds: float):
  """Compiled halves with their arguments."""
  module = hifi_codec_24khz.get_config().codec
  codec, length = drawn(module), round(seconds * module.sample_rate)
  x = jnp.asarray(0.1 * np.random.default_rng(0).standard_normal((1, length, 1), np.float32))
  encode = jax.jit(jaxcodec.encode).lower(codec, x).compile()
  codes = encode(codec, x)
  decode = jax.jit(jaxcodec.decode).lower(codec, codes).compile()
  return (lambda: encode(codec, x)), (lambda: decode(codec, codes)), work(module, length)


def best(*functions) -> list[float]:
  """Seconds of each, in turn."""
  times = np.empty((RUNS, len(functions)))
  for row in times:
    for i, function in enumerate(functions):
      start = time.perf_counter()
      function()
      row[i] = time.perf_counter() - start
  return list(times.min(axis=0))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--sources", type=pathlib.Path, required=True)
  parser.add_argument("--seconds", type=float, default=10.0)
  options = parser.parse_args()
  encode, decode, flops = ours(options.seconds)
  their_encoder, their_generator = theirs(options.sources)
  matrix = jnp.ones((SIDE, SIDE))
  product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
  with torch.inference_mode():
    x = 0.1 * torch.randn(1, 1, round(options.seconds * 24_000))
    z = their_encoder(x)
    halves = {
      "encode": (lambda: encode().block_until_ready(), lambda: their_encoder(x)),
      "decode": (lambda: decode().block_until_ready(), lambda: their_generator(z)),
    }
    (taken,) = best(lambda: product(matrix, matrix).block_until_ready())
    peak = 2e-9 * SIDE**3 / taken
    print(f"a product of matrices: {peak:.0f} GFLOP/s; torch {torch.__version__}")
    print(
      "| what | ours, s | PyTorch eager, s | ratio | times real time | GFLOP/s | of a product's |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for (name, functions), each in zip(halves.items(), flops, strict=True):
      us, them = best(*functions)
      rate = each * options.seconds / us
      cells = f"{us:.2f} | {them:.2f} | {them / us:.2f} | {options.seconds / us:.2f}"
      print(f"| {name} | {cells} | {rate:.0f} | {100 * rate / peak:.0f} % |", flush=True)


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
