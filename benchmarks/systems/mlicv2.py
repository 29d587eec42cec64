"""MLIC++ and MLICv2 piece by piece, in miniature: what each reference saves at equal training.

Command: python -m benchmarks.systems.mlicv2 --data PHOTOS_DIR

PHOTOS_DIR holds `photos_train.tar` and `photos_test.tar`. Transforms are trained end to end with
side information alone, once with residual blocks and once with token mixing. On the latents of the
former every entropy model then takes the same steps in the same order, from the same side
information; the error of a latent counts there what it adds to the picture's. Figures are of test
photographs through the whole codec: bits by their likelihoods, squared errors of samples from 0 to
255, and the loss, bits a pixel + 0.013 times the error. Means and standard deviations over seeds;
differences are within a seed.
"""

import argparse
import dataclasses
import functools
import io
import pathlib
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from benchmarks.systems.short_runs import spread
from jaxcodec import functional as F, terminal
from jaxcodec.data import pipeline
from jaxcodec.data.pictures import Pictures
from jaxcodec.image import refine
from jaxcodec.image.latent_codec import latent_codec
from jaxcodec.image.mlic import Mlic, mlic_v2
from jaxcodec.image.picture_codec import rate_distortion
from jaxcodec.training.config import Adam, LearningRate
from jaxcodec.training.rate_distortion import TrainPictures, init_state, train_step

LAMBDA = 0.013
SIZES = {"filters": 32, "latents": 24, "slices": 3}
ALONE = Mlic(**SIZES, references=())
PLUS = Mlic(**SIZES)
PIECES = {
  "side information alone": ALONE,
  "channel, local": Mlic(**SIZES, references=("channel", "local")),
  "MLIC++": PLUS,
  "MLIC++, first": PLUS.clone(references=(*PLUS.references, "first")),
  "MLIC++, reweighted": PLUS.clone(reweighted=True),
  "MLIC++, rotary": PLUS.clone(rotary=True),
  "MLIC++, left out": PLUS.clone(skip_below=0.12),
  "MLICv2 but its transforms": mlic_v2(**SIZES).clone(mixing=0),
}
TRANSFORMS = {"residual blocks": ALONE, "token mixing": ALONE.clone(mixing=1)}
SHARED = ("g_a", "g_s", "h_a", "h_s", "entropy_bottleneck")
BATCH = 16


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True, metavar="PHOTOS_DIR")
  parser.add_argument("--steps", type=int, default=500, help="of transforms")
  parser.add_argument("--latent-steps", type=int, default=1500, help="of entropy models")
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--refine", type=int, default=300, help="steps of annealing a picture")
  options = parser.parse_args()
  test = held_out(options.data)
  transforms = {name: [] for name in TRANSFORMS}
  pieces = {name: [] for name in PIECES}
  sizes, refining = {}, []
  for seed in range(options.seeds):
    states = {}
    for name, module in TRANSFORMS.items():
      states[name] = trained(module, options.data, options.steps, seed)
      transforms[name].append(figures(module, states[name], test))
      terminal.say(f"seed {seed}: {name}: {transforms[name][-1]}")
    base = states["residual blocks"]
    latents = latents_of(base, options.data, seed)
    weights = weights_of(base, latents[:8])
    for name, module in PIECES.items():
      params = fitted(module, base, latents, weights, options.latent_steps, seed)
      sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(params))
      pieces[name].append(figures(module, params, test))
      terminal.say(f"seed {seed}: {name}: {pieces[name][-1]}")
      if name == "MLIC++" and seed == 0:
        refining = refined(module, params, test[:4], options.refine)
        terminal.say(f"refined: {refining}")
  print(f"{options.steps} steps of 8 crops of 64 x 64, {options.seeds} seeds\n")
  table("transforms", transforms, "residual blocks")
  print(f"\n{options.latent_steps} steps of the latents of {BATCH} crops of 128 x 128\n")
  table("entropy model", pieces, "MLIC++", sizes)
  print(f"\nMLIC++ of seed 0, four test photographs, {options.refine} steps each:\n")
  print("| lambda by `trade_off_of` | loss | loss, refined | change |\n|---:|---:|---:|---:|")
  for trade_off, before, after in refining:
    print(f"| {trade_off:.4f} | {before:.4f} | {after:.4f} | {after / before - 1:+.1%} |")


def table(kind: str, found: dict[str, list], against: str, sizes=None) -> None:
  head = f"| {kind} | bits/pixel | PSNR, dB | loss | loss against {against} |"
  print(head + (" parameters |" if sizes else ""))
  print("|---|---:|---:|---:|---:|" + ("---:|" if sizes else ""))
  reference = np.array(found[against])[:, 2]
  for name, runs in found.items():
    bits, error, loss = np.array(runs).T
    psnr = 10 * np.log10(255**2 / error)
    change = 100 * (loss / reference - 1)
    line = f"| {name} | {bits.mean():.4f} | {psnr.mean():.2f} | {spread(loss, 4)} "
    line += f"| {spread(change, 2)} % |" if name != against else "| |"
    print(line + (f" {sizes[name]} |" if sizes else ""))


def held_out(folder: pathlib.Path, count: int = 32) -> np.ndarray:
  """The middles, of 128 x 128, of the first test photographs: [count, 128, 128, 3]."""
  found = []
  with tarfile.open(folder / "photos_test.tar") as tar:
    for member in sorted(tar.getmembers(), key=lambda member: member.name)[::3][:count]:
      with Image.open(io.BytesIO(tar.extractfile(member).read())) as stored:
        x = np.asarray(stored.convert("RGB"), np.float32) / 127.5 - 1
      top, left = (x.shape[0] - 128) // 2, (x.shape[1] - 128) // 2
      found.append(x[top : top + 128, left : left + 128])
  return np.stack(found)


def crops(folder: pathlib.Path, size: int, batch: int, steps: int, seed: int):
  data = Pictures(size=(size, size), sources=(str(folder / "photos_train.tar"),))
  return pipeline.dataset(data, ALONE, batch_size=batch, num_steps=steps, seed=seed)


def config_of(module: Mlic, steps: int) -> TrainPictures:
  return TrainPictures(
    name="arm",
    codec=module,
    data=Pictures(size=(64, 64)),
    batch_size=8,
    num_steps=steps,
    optimizer=Adam(rate=LearningRate(peak=2e-3, warmup_steps=20, cosine=True), clip_norm=1.0),
    lambdas=(LAMBDA, LAMBDA),
    average_decay=0.98,
  )


@functools.cache
def compiled(config: TrainPictures):
  step = jax.jit(functools.partial(train_step, config=config), donate_argnums=0)
  return jax.jit(functools.partial(init_state, config=config)), step


def drawn(seed: int):
  """A key whose draws compile in no time."""
  return jax.random.key(seed, impl="rbg")


def trained(module: Mlic, folder: pathlib.Path, steps: int, seed: int):
  """Parameters, averaged, after a run end to end."""
  init, step = compiled(config_of(module, steps))
  state, data = init(drawn(seed)), crops(folder, 64, 8, steps, seed)
  for i in range(steps):
    state, _ = step(state, data[i], drawn(seed))
  if int(state.skipped):
    raise RuntimeError(f"{int(state.skipped)} steps were not finite")
  return jax.tree.map(jnp.asarray, state.average)


def latents_of(params, folder: pathlib.Path, seed: int, batches: int = 64) -> np.ndarray:
  """y of training crops: [batches, BATCH, 8, 8, M]."""
  data = crops(folder, 128, BATCH, batches, seed + 1000)
  return np.stack([np.asarray(analysed(params, data[i])) for i in range(batches)])


@jax.jit
def analysed(params, x):
  return ALONE.apply({"params": params}, x, method="analyse")[0]


@jax.jit
def synthesised(params, y_hat):
  return ALONE.apply({"params": params}, y_hat, method="synthesise")


def weights_of(params, latents: np.ndarray) -> np.ndarray:
  """[M]: the squared error of a picture's samples for one of a latent in each channel."""
  y = jnp.asarray(latents[0])
  start, found = synthesised(params, y), []
  for channel in range(y.shape[-1]):
    noise = np.random.default_rng(channel).uniform(-0.5, 0.5, y.shape[:3])
    moved = synthesised(params, y.at[..., channel].add(noise))
    found.append(float(jnp.square(127.5 * (moved - start)).mean() / np.square(noise).mean()))
  return np.array(found, np.float32)


@functools.cache
def fitting(module: Mlic, steps: int):
  """`(init, step, optimizer)` of an entropy model on latents."""
  schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, 20, steps)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

  def loss(moving, held, y, weights, key, selective):
    params = moving | held
    z = module.apply({"params": params}, y, method="side")
    changes = {"selective": selective} if module.skip_below else {}
    coded = module.apply({"params": params}, y, z, key, method="code", **changes)
    pixels = 256 * y[..., 0].size
    bits = sum(F.information_bits(part).sum() for part in coded.likelihoods.values()) / pixels
    error = (weights * jnp.square(coded.y_hat - y).mean(axis=(0, 1, 2))).sum()
    return bits + LAMBDA * error + coded.aux_loss + jnp.mean(coded.penalty)

  @jax.jit
  def step(moving, state, held, y, weights, key, selective):
    gradient = jax.grad(loss)(moving, held, y, weights, key, selective)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(moving, updates), state

  example = jnp.zeros((1, 64, 64, 3))
  return jax.jit(lambda key: module.init(key, example)["params"]), step, optimizer


def fitted(module: Mlic, base, latents, weights, steps: int, seed: int):
  """Parameters of a codec whose entropy model was trained on the latents of the transforms."""
  init, step, optimizer = fitting(module, steps)
  params = init(drawn(seed)) | {name: base[name] for name in SHARED}
  held = {name: params[name] for name in ("g_a", "g_s")}
  moving = {name: part for name, part in params.items() if name not in held}
  state, key = optimizer.init(moving), drawn(seed)
  for i in range(steps):
    y, late = latents[i % len(latents)], np.bool_(i >= 0.9 * steps)
    moving, state = step(moving, state, held, y, weights, jax.random.fold_in(key, i), late)
  return moving | held


@functools.partial(jax.jit, static_argnums=0)
def priced(module: Mlic, params, y):
  z = module.apply({"params": params}, y, method="side")
  coded = module.apply({"params": params}, y, z, method="code")
  return coded.likelihoods, coded.y_hat


def figures(module: Mlic, params, x: np.ndarray) -> tuple[float, float, float]:
  """`(bits a pixel, squared error, loss)`, means over pictures."""
  if module.mixing:
    coded = jax.jit(module.apply)({"params": params}, x)
  else:
    likelihoods, y_hat = priced(module, params, analysed(params, x))
    coded = dataclasses.make_dataclass("Coded", ["likelihoods", "x_hat"])(
      likelihoods, synthesised({name: params[name] for name in SHARED}, y_hat)
    )
  bits, error, loss = rate_distortion(x, coded, LAMBDA)
  return float(bits.mean()), float(error.mean()), float(loss.mean())


def refined(module: Mlic, params, pictures: np.ndarray, steps: int) -> list:
  """`(lambda as estimated, loss, loss after refining)` of each picture, rounded as in a file."""
  codec, found = latent_codec(module, params, "arm"), []

  @jax.jit
  def loss(x, y, z):
    coded = module.apply({"params": params}, y, z, method="code")
    return rate_distortion(x, coded, LAMBDA)[2][0]

  for x in pictures:
    y, z = module.apply({"params": params}, x[None], method="analyse")
    better = refine.refined(codec, x, steps=steps, trade_off=LAMBDA)
    after = loss(x[None], *(part[None] for part in better))
    found.append((refine.trade_off_of(codec, x), float(loss(x[None], y, z)), float(after)))
  return found


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
