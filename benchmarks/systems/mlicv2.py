"""MLIC++ and MLICv2 piece by piece, in miniature: what each reference saves at equal training.

Command: python -m benchmarks.systems.mlicv2 --data PHOTOS_DIR

PHOTOS_DIR holds `photos_train.tar` and `photos_test.tar`. Latents are those of the bundled `photo`
codec at quality 50: the channels of most energy, so that entropy models of two small slices take
minutes. Each model has the same steps, crops and learning rate, and its own side information; its
loss is bits a pixel plus lambda times what its latents' errors add to the picture's squared error,
to first order. Figures are of test photographs, means and standard deviations over seeds;
differences are within a seed.

Transforms are trained end to end with side information alone; latents are refined for the `photo`
codec itself, whose lambda at that quality is known.
"""

import argparse
import functools
import io
import pathlib
import tarfile
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from benchmarks.systems.short_runs import spread
from jaxcodec import functional as F, terminal
from jaxcodec.data import pipeline
from jaxcodec.data.pictures import Pictures
from jaxcodec.hub.load import load_picture
from jaxcodec.image import refine
from jaxcodec.image.mlic import Mlic, mlic_v2
from jaxcodec.image.picture_codec import rate_distortion
from jaxcodec.training.config import LearningRate, Muon
from jaxcodec.training.rate_distortion import TrainPictures, init_state, train_step

LEVEL, LAMBDA = 3.5, 0.0141  # Quality 50 of `photo`, halfway from 0.001 to 0.2 in logarithms.
SIZES = {"filters": 24, "latents": 16, "slices": 2}
# Of all pieces; what a model lacks is taken out while it runs, so that two programs serve all.
WHOLE = mlic_v2(**SIZES).clone(mixing=0)
PLUS = ("channel", "inter", "local", "intra")
PIECES = {
  "side information alone": (),
  "channel": ("channel",),
  "channel, local": ("channel", "local"),
  "channel, local, inter": ("channel", "local", "inter"),
  "MLIC++": PLUS,
  "MLIC++, first": (*PLUS, "first"),
  "MLIC++, reweighted": (*PLUS, "reweighted"),
  "MLIC++, rotary": (*PLUS, "rotary"),
  "MLIC++, left out": (*PLUS, "left out"),
  "all of these": (*PLUS, "first", "reweighted", "rotary", "left out"),
}
_NAMES = {
  "channel_context": "channel",
  "global_inter_context": "inter",
  "global_intra_context": "intra",
  "global_first_context": "first",
  "local_context": "local",
}
ALONE = Mlic(filters=32, latents=24, slices=1, references=())
TRANSFORMS = {"residual blocks": ALONE, "token mixing": ALONE.clone(mixing=1)}


class Latents(NamedTuple):
  """Attributes:
  train: [steps, batch, 8, 8, M] of crops of 128 x 128.
  test: [count, 8, 8, M].
  weights: [M], the squared error of a picture's samples for one of a latent.
  """

  train: np.ndarray
  test: np.ndarray
  weights: np.ndarray


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True, metavar="PHOTOS_DIR")
  parser.add_argument("--steps", type=int, default=400, help="of entropy models")
  parser.add_argument("--transform-steps", type=int, default=300)
  parser.add_argument("--seeds", type=int, default=2)
  parser.add_argument("--refine", type=int, default=200, help="steps of annealing a picture")
  parser.add_argument(
    "--only", nargs="*", default=("pieces", "transforms", "refined"), metavar="PART"
  )
  options = parser.parse_args()
  test = held_out(options.data)
  if "refined" in options.only:
    print(f"`photo` at quality 50, {options.refine} steps, middles of test photographs\n")
    print("| lambda of its curve | loss | refined | change |\n|---:|---:|---:|---:|")
    for trade_off, before, after in refined(test[::8], options.refine):
      change = f"{100 * (after / before - 1):+.1f} %"
      print(f"| {trade_off:.4f} | {before:.4f} | {after:.4f} | {change} |", flush=True)
  if "pieces" in options.only:
    found = {name: [] for name in PIECES}
    for seed in range(options.seeds):
      latents = latents_of(options.data, test, options.steps, seed)
      for name, pieces in PIECES.items():
        found[name].append(fitted(pieces, latents, options.steps, seed))
        terminal.say(f"seed {seed}: {name}: {found[name][-1]}")
    print(f"\n{options.steps} steps of 8 crops, {options.seeds} seeds\n")
    table("entropy model", found, "MLIC++")
  if "transforms" in options.only:
    found = {name: [] for name in TRANSFORMS}
    for seed in range(options.seeds):
      for name, module in TRANSFORMS.items():
        found[name].append(trained(module, options.data, test, options.transform_steps, seed))
        terminal.say(f"seed {seed}: {name}: {found[name][-1]}")
    print(f"\n{options.transform_steps} steps of 8 crops of 64 x 64, {options.seeds} seeds\n")
    table("transforms", found, "residual blocks")


def table(kind: str, found: dict[str, list], against: str) -> None:
  """Of `(bits, squared error, loss)` of each run."""
  print(f"| {kind} | bits/pixel | squared error | loss | against {against} |")
  print("|---|---:|---:|---:|---:|")
  reference = np.array(found[against])[:, 2]
  for name, runs in found.items():
    bits, error, loss = np.array(runs).T
    change = over_seeds(100 * (loss / reference - 1), 2) + " %" if name != against else ""
    line = f"| {name} | {over_seeds(bits, 4)} | {error.mean():.2f} "
    print(f"{line}| {over_seeds(loss, 4)} | {change} |")


def over_seeds(values: np.ndarray, digits: int) -> str:
  return spread(values, digits) if len(values) > 1 else f"{values[0]:.{digits}f}"


def held_out(folder: pathlib.Path, count: int = 32) -> np.ndarray:
  """The middles, of 128 x 128, of test photographs: [count, 128, 128, 3]."""
  found = []
  with tarfile.open(folder / "photos_test.tar") as tar:
    for member in sorted(tar.getmembers(), key=lambda member: member.name)[::3][:count]:
      with Image.open(io.BytesIO(tar.extractfile(member).read())) as stored:
        x = np.asarray(stored.convert("RGB"), np.float32) / 127.5 - 1
      top, left = (x.shape[0] - 128) // 2, (x.shape[1] - 128) // 2
      found.append(x[top : top + 128, left : left + 128])
  return np.stack(found)


def crops(folder: pathlib.Path, size: int, steps: int, seed: int):
  data = Pictures(size=(size, size), sources=(str(folder / "photos_train.tar"),))
  return pipeline.dataset(data, ALONE, batch_size=8, num_steps=steps, seed=seed)


@functools.cache
def photo():
  """`(analyse, synthesise)` of the bundled codec, on arrays."""
  codec = load_picture("photo")

  def run(method, x):
    return codec.module.apply({"params": codec.params}, x, np.float32(LEVEL), method=method)

  return jax.jit(lambda x: run("analyse", x)[0]), jax.jit(lambda y: run("synthesise", y))


def latents_of(folder: pathlib.Path, test: np.ndarray, steps: int, seed: int) -> Latents:
  """Of crops of a seed; there are half as many as steps."""
  analyse, synthesise = photo()
  data = crops(folder, 128, steps // 2, seed)
  whole = np.stack([np.asarray(analyse(data[i])) for i in range(steps // 2)])
  y = np.concatenate([np.asarray(analyse(part)) for part in np.split(test, 4)])
  chosen = np.sort(np.argsort(y.var(axis=(0, 1, 2)))[::-1][: SIZES["latents"]])
  start, weights = synthesise(y[:8]), []
  for channel in chosen:
    noise = np.random.default_rng(channel).uniform(-0.5, 0.5, y[:8, ..., 0].shape)
    moved = y[:8].copy()
    moved[..., channel] += noise
    error = np.square(127.5 * (np.asarray(synthesise(moved)) - start)).mean()
    weights.append(error / np.square(noise).mean())
  return Latents(whole[..., chosen], y[..., chosen], np.array(weights, np.float32))


def drawn(seed: int):
  """A key whose draws compile in no time."""
  return jax.random.key(seed, impl="rbg")


def without(module: Mlic, there):
  """An interceptor that lets only those pieces through that are `there`, numbers of 0 or 1."""

  def run(call, args, kwargs, context):
    y, path = call(*args, **kwargs), context.module.path
    if context.method_name != "__call__" or len(path) != 1:
      return y
    name = path[0].rstrip("0123456789").rstrip("_")
    if name in _NAMES:
      return y * there[_NAMES[name]]
    if name.startswith("weights"):
      return args[0] + there["reweighted"] * (y - args[0])
    return y

  return nn.intercept_methods(run)


@functools.cache
def fitting(module: Mlic, steps: int):
  """`(init, step, figures, optimizer)` of an entropy model on latents."""
  schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, min(20, steps // 2), steps)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
  shapes = jax.eval_shape(module.init, drawn(0), jnp.zeros((1, 64, 64, 3)))["params"]
  # What it makes of them nobody reads.
  held = {name: jax.tree.map(jnp.zeros_like, shapes[name]) for name in ("g_a", "g_s")}

  def parts(params, y, weights, there, key, late):
    with without(module, there):
      params = params | held
      z = module.apply({"params": params}, y, method="side")
      selective = late & (there["left out"] > 0)
      coded = module.apply({"params": params}, y, z, key, method="code", selective=selective)
    pixels = 256 * y[..., 0].size
    bits = sum(F.information_bits(part).sum() for part in coded.likelihoods.values()) / pixels
    error = (weights * jnp.square(coded.y_hat - y).mean(axis=(0, 1, 2))).sum()
    return bits, error, bits + LAMBDA * error, coded.aux_loss + jnp.mean(coded.penalty)

  def loss(*arguments):
    return sum(parts(*arguments)[2:])

  @jax.jit
  def step(params, state, *arguments):
    updates, state = optimizer.update(jax.grad(loss)(params, *arguments), state)
    return optax.apply_updates(params, updates), state

  def init(key):
    params = module.init(key, jnp.zeros((1, 64, 64, 3)))["params"]
    return {name: part for name, part in params.items() if name not in held}

  figures = jax.jit(lambda *arguments: parts(*arguments, None, np.bool_(True))[:3])
  return jax.jit(init), step, figures, optimizer


def fitted(pieces: tuple[str, ...], latents: Latents, steps: int, seed: int):
  """`(bits, error, loss)` of an entropy model after a run."""
  module = WHOLE.clone(rotary="rotary" in pieces)
  init, step, figures, optimizer = fitting(module, steps)
  every = (*_NAMES.values(), "reweighted", "left out")
  there = {name: np.float32(name in pieces) for name in every}
  params, key = init(drawn(seed)), drawn(seed)
  state = optimizer.init(params)
  for i in range(steps):
    y, late = latents.train[i % len(latents.train)], np.bool_(i >= 0.9 * steps)
    step_key = jax.random.fold_in(key, i)
    params, state = step(params, state, y, latents.weights, there, step_key, late)
  return tuple(map(float, figures(params, latents.test, latents.weights, there)))


@functools.cache
def training(module: Mlic, steps: int):
  rate = LearningRate(peak=3e-3, warmup_steps=20, cosine=True)
  config = TrainPictures(
    name="arm",
    codec=module,
    data=Pictures(size=(64, 64)),
    batch_size=8,
    num_steps=steps,
    optimizer=Muon(rate=rate, clip_norm=1.0),
    lambdas=(LAMBDA, LAMBDA),
    average_decay=0.98,
  )
  step = jax.jit(functools.partial(train_step, config=config), donate_argnums=0)
  return jax.jit(functools.partial(init_state, config=config)), step


def trained(module: Mlic, folder: pathlib.Path, test: np.ndarray, steps: int, seed: int):
  """`(bits, error, loss)` of a codec after a run end to end."""
  init, step = training(module, steps)
  state, data = init(drawn(seed)), crops(folder, 64, steps, seed)
  for i in range(steps):
    state, _ = step(state, data[i], drawn(seed))
  if int(state.skipped):
    raise RuntimeError(f"{int(state.skipped)} steps were not finite")
  return whole(module, state.average, test)


@functools.partial(jax.jit, static_argnums=0)
def _whole(module, params, x):
  parts = rate_distortion(x, module.apply({"params": params}, x), LAMBDA)
  return jnp.stack([part.mean() for part in parts])


def whole(module: Mlic, params, x: np.ndarray) -> tuple[float, ...]:
  """`(bits, error, loss)` of a codec, means over pictures."""
  return tuple(map(float, np.mean([_whole(module, params, part) for part in np.split(x, 4)], 0)))


def refined(pictures: np.ndarray, steps: int):
  """`(lambda of the curve, loss, loss after refining)` of each picture, rounded as in a file."""
  codec = load_picture("photo")

  @jax.jit
  def loss(x, y, z):
    level = np.float32(LEVEL)
    coded = codec.module.apply({"params": codec.params}, y, z, None, level, method="code")
    return rate_distortion(x, coded, LAMBDA)[2][0]

  for x in pictures:
    own = refine.analysed(codec, x[None], LEVEL)
    better = refine.refined(codec, x, LEVEL, steps=steps, trade_off=LAMBDA)
    after = loss(x[None], *(part[None] for part in better))
    yield refine.trade_off_of(codec, x, LEVEL), float(loss(x[None], *own)), float(after)


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
