"""Contexts of picture codecs beside each other, on the latents of one that is trained.

Command: python -m benchmarks.systems.contexts --data PHOTOS_DIR [--steps 3000] [--seeds 1]

PHOTOS_DIR holds `photos_train.tar` and `photos_test.tar`. Analysis, synthesis and the gains of the
qualities are those of the bundled `photo` codec and stay; each contestant learns its own side
information and entropy networks for all qualities at once, from the same crops, for the same steps,
at the same learning rate, its loss the bits alone. So no contestant's pictures are better for
reasons of its transforms, and curves show what the context saves.

Contestants are side information alone, the joint autoregressive codec's context (before its
places in reading order), the checkerboard's, and groups of channels with a checkerboard in each.
Channels stand in the order of their energy. Bits are those of rounded latents under what a reader
has, PSNR that of pictures made of them, means over test photographs.
"""

import argparse
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.systems.mlicv2 import crops, drawn, held_out
from jaxcodec import functional as F, terminal
from jaxcodec.hub.load import load_picture
from jaxcodec.image.autoregressive import JointAutoregressive
from jaxcodec.image.checkerboard import Checkerboard
from jaxcodec.image.elic import Elic
from jaxcodec.image.hyperprior import MeanScaleHyperprior
from jaxcodec.image.picture_codec import PictureCodec
from jaxcodec.layers.picture import split
from jaxcodec.metrics.picture import bd_rate

SIZES = {"filters": 64, "latents": 128}
GROUPS = Elic(**SIZES, groups=(8, 8, 16, 32, 64), transform="gdn", widths=(96, 64))
JOINT = "joint autoregressive"
CONTESTANTS = {
  "side information alone": MeanScaleHyperprior(**SIZES),
  JOINT: JointAutoregressive(**SIZES),
  "checkerboard": Checkerboard(**SIZES),
  "groups and checkerboard": GROUPS,
}
LEVELS = (0.0, 2.0, 4.0, 6.0)  # Of `photo`'s 0 to 7.
LAMBDA_RATIO = 200.0  # Of its highest quality to its lowest.


class Trained(NamedTuple):
  """Of the bundled codec, channels by their energy.

  Attributes:
    analyse: pictures [B, 128, 128, 3] to latents before gains [B, 8, 8, M].
    synthesise: latents as multiplied and rounded, and a quality, to pictures.
    gains: qualities [B] to factors [B, 1, 1, M].
  """

  analyse: Callable[..., Any]
  synthesise: Callable[..., Any]
  gains: Callable[..., Any]


def photo(some: np.ndarray) -> Trained:
  """The bundled codec; `some` are pictures by which its channels are ordered."""
  codec = load_picture("photo")

  def run(method, *arguments):
    return codec.module.apply({"params": codec.params}, *arguments, method=method)

  analyse = jax.jit(lambda x: run(lambda module, x: module.g_a((x + 1) / 2), x))
  order = np.argsort(np.asarray(analyse(some)).var(axis=(0, 1, 2)))[::-1]
  back = np.argsort(order)
  return Trained(
    lambda x: np.asarray(analyse(x))[..., order],
    jax.jit(lambda y_hat, quality: run("synthesise", y_hat[..., back], quality)),
    lambda quality: run(lambda module, q: module.gains(q), quality)[..., order],
  )


def bits_of(likelihoods) -> jax.Array:
  """Of each picture, [B]."""
  return sum(F.information_bits(p).reshape(len(p), -1).sum(axis=1) for p in likelihoods.values())


def trained(module: PictureCodec, codec: Trained, latents: np.ndarray, options, seed: int):
  """Parameters after a run over `latents` [count, 8, 8, 8, M] before gains."""
  warmup = min(100, options.steps // 2)
  schedule = optax.warmup_cosine_decay_schedule(0.0, options.rate, warmup, options.steps)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

  def loss(params, y, share, key):
    variables = {"params": params}
    z = module.apply(variables, y, method="side")
    coded = module.apply(variables, y, z, key, method="code")
    pixels = 256 * y[0, ..., 0].size
    # Bits of a quality grow about as the root of its lambda: so all weigh alike.
    weighed = bits_of(coded.likelihoods) / pixels * LAMBDA_RATIO ** (-share / 2)
    return weighed.mean() + coded.aux_loss

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, y, key):
    for_share, for_noise = jax.random.split(key)
    share = (jnp.arange(len(y)) + jax.random.uniform(for_share, (len(y),))) / len(y)
    y = y * codec.gains(7 * share)
    updates, state = optimizer.update(jax.grad(loss)(params, y, share, for_noise), state)
    return optax.apply_updates(params, updates), state

  key = drawn(seed)
  params = jax.jit(module.init)(key, jnp.zeros((1, 64, 64, 3)))["params"]
  # What it makes of pictures nobody reads.
  params |= {name: jax.tree.map(jnp.zeros_like, params[name]) for name in ("g_a", "g_s")}
  state = optimizer.init(params)
  for i in range(options.steps):
    params, state = step(params, state, latents[i % len(latents)], jax.random.fold_in(key, i))
  return params


@functools.partial(jax.jit, static_argnums=0)
def as_in_a_file(module: PictureCodec, params, y):
  """`(y_hat, bits)` of latents, rounded as a writer does; bits [B]."""
  variables = {"params": params}
  z = module.apply(variables, y, method="side")
  if not isinstance(module, JointAutoregressive):
    coded = module.apply(variables, y, z, method="code")
    return coded.y_hat, bits_of(coded.likelihoods)

  def side(module, z):
    z_hat, of_z = module.side_information(z, None, F.round_about)
    return module.h_s(z_hat), of_z

  def parameters(module, side, y_hat):
    both = jnp.concatenate([side, module.context_prediction(y_hat)], axis=-1)
    return split(module.entropy_parameters(both))

  known, of_z = module.apply(variables, z, method=side)
  run = functools.partial(module.apply, variables, known, method=parameters)
  # Each round settles the places of another diagonal, see `passes._raster`.
  rounds = 3 * (y.shape[1] - 1) + y.shape[2]
  y_hat = jax.lax.fori_loop(
    0, rounds, lambda _, y_hat: F.round_about(y, run(y_hat)[1]), jnp.zeros_like(y)
  )
  scales, means = run(y_hat)
  return y_hat, bits_of({"y": F.gaussian_likelihood(y_hat, scales, means), "z": of_z})


def curve(module: PictureCodec, params, codec: Trained, test: np.ndarray):
  """`(bits a pixel, PSNR)` at each of `LEVELS`, means over pictures."""
  points = []
  for level in LEVELS:
    rates, quality = [], []
    for x in np.split(test, 4):
      y = codec.analyse(x) * np.asarray(codec.gains(jnp.float32(level)))
      y_hat, bits = as_in_a_file(module, params, y)
      rates.append(np.asarray(bits) / x[0, ..., 0].size)
      errors = np.clip(np.asarray(codec.synthesise(y_hat, np.float32(level))), -1, 1) - x
      quality.append(-10 * np.log10(np.square(errors / 2).mean(axis=(1, 2, 3))))
    points.append((np.concatenate(rates).mean(), np.concatenate(quality).mean()))
  return tuple(zip(*points, strict=True))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True, metavar="PHOTOS_DIR")
  parser.add_argument("--steps", type=int, default=3000)
  parser.add_argument("--seeds", type=int, default=1)
  parser.add_argument("--rate", type=float, default=1e-3, help="the highest learning rate")
  options = parser.parse_args()
  test = held_out(options.data)
  codec = photo(test[:8])
  found: dict[str, list] = {name: [] for name in CONTESTANTS}
  for seed in range(options.seeds):
    data = crops(options.data, 128, -(-options.steps // 2), seed)
    latents = np.stack([codec.analyse(data[i]) for i in range(-(-options.steps // 2))])
    for name, module in CONTESTANTS.items():
      params = trained(module, codec, latents, options, seed)
      found[name].append(curve(module, params, codec, test))
      terminal.say(f"seed {seed}: {name}: {found[name][-1]}")
  report(found, options)


def report(found: dict[str, list], options) -> None:
  """Of curves of each run."""
  print(f"{options.steps} steps of 8 crops of 128 x 128, {options.seeds} seeds\n")
  heads = " | ".join(f"{level:g}, bits/pixel | PSNR, dB" for level in LEVELS)
  print(f"| context | {heads} | BD-rate to the joint one, each seed |")
  print("|---" + "|---:" * (2 * len(LEVELS) + 1) + "|")
  for name, runs in found.items():
    points = np.mean(runs, axis=0).T
    cells = " | ".join(f"{bits:.4f} | {psnr:.2f}" for bits, psnr in points)
    rates = [bd_rate(*joint, *own) for joint, own in zip(found[JOINT], runs, strict=True)]
    print(f"| {name} | {cells} | {', '.join(f'{rate:+.2f} %' for rate in rates)} |")


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
