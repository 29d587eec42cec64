"""Every bottleneck in one small autoencoder of photographs: error, use of codes, bits, time.

Command: python benchmarks/bottlenecks.py --data PHOTOS_DIR [--only NAME ...] [--pictures DIR]

PHOTOS_DIR holds `photos_train.tar` and `photos_test.tar`. Pictures are halved; the network codes
crops of 32 x 32 as 8 x 8 latents of 32 numbers. All start from the same weights and see the same
batches. Figures are of 400 crops of the test photographs, 25,600 latents: mean squared error for
pixels in [-1, 1]; use, the share of entries that occur (mean over codebooks), and their perplexity.
Bits are a latent's, each code at its fixed length or, of an entropy model, at its price.
`--pictures` draws use over training.
"""

import argparse
import functools
import io
import math
import pathlib
import re
import tarfile
import time
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from jaxcodec import bottlenecks as B, functional as F, terminal

WIDTH, SIDE = 32, 8


class Entry(NamedTuple):
  """A bottleneck and how it is trained.

  Attributes:
    module: takes and gives latents of WIDTH numbers.
    pull: weight of `loss`.
    codebook: weight of `codebook_loss`.
    entropy: weight of `entropy_loss`.
    rate: weight of `bits`.
    averages: moving averages write `codebooks`, after a start by k-means, with restarts.
    tokens: how many codes, or tuples of codes, a crop has.
    width: numbers of a latent.
  """

  module: nn.Module
  pull: float = 0.25
  codebook: float = 1.0
  entropy: float = 0.0
  rate: float = 0.0
  averages: bool = False
  tokens: int = SIDE**2
  width: int = WIDTH


class NormalChannels(nn.Module):
  """A normal density a channel, where a hyperprior would give one a number."""

  conditional: nn.Module

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return self.conditional.codebook_sizes

  @nn.compact
  def __call__(self, z):
    scales, means = (
      self.param(name, nn.initializers.zeros, (z.shape[-1],)) for name in ("log_scales", "means")
    )
    return self.conditional(z, scales=jnp.exp(scales), means=means)


ENTRIES: dict[str, Entry] = {
  "VQ": Entry(B.VQ(1024, WIDTH)),
  "VQ, averages": Entry(B.VQ(1024, WIDTH), averages=True),
  "VQ, rotation trick": Entry(B.VQ(1024, WIDTH, through=F.rotate), averages=True),
  "cosine VQ": Entry(B.CosineVQ(1024, WIDTH), averages=True),
  "factorised VQ": Entry(B.FactorizedRVQ(1, 1024, WIDTH, 8)),
  "SimVQ": Entry(B.SimVQ(1024, WIDTH)),
  "FSQ": Entry(B.FSQ((8, 5, 5, 5), WIDTH)),
  "LFQ": Entry(B.LFQ(10, WIDTH, inverse_temperature=1.0), entropy=0.1),
  "BSQ": Entry(B.BSQ(10, WIDTH), pull=0.0, entropy=0.1),
  "residual VQ": Entry(B.ResidualVQ(4, 256, WIDTH), averages=True),
  "residual VQ, shared": Entry(B.ResidualVQ(4, 256, WIDTH, shared=True), averages=True),
  "group-residual VQ": Entry(B.GroupResidualVQ(2, 2, 256, WIDTH), averages=True),
  "residual VQ, gradient": Entry(B.ResidualVQ(4, 256, WIDTH)),
  "group-residual VQ, gradient": Entry(B.GroupResidualVQ(2, 2, 256, WIDTH)),
  "product VQ": Entry(B.GroupResidualVQ(4, 1, 256, WIDTH), averages=True),
  "masked-channel residual VQ": Entry(B.ResidualVQ(4, 256, WIDTH, num_bands=3), averages=True),
  "factorised residual VQ": Entry(B.FactorizedRVQ(4, 256, WIDTH, 8)),
  "split residual VQ": Entry(B.SplitRVQ(4, 256, 16, WIDTH)),
  "multi-scale VQ": Entry(B.MultiScaleVQ(1024, WIDTH, (1, 2, 3, 4, 6, 8)), tokens=130),
  "residual FSQ": Entry(B.ResidualFSQ(4, (4, 4, 4, 4), WIDTH)),
  "residual LFQ": Entry(B.ResidualLFQ(4, 8, WIDTH, inverse_temperature=1.0), entropy=0.02),
  "latent quantization": Entry(B.LatentQuantizer(4, WIDTH), pull=0.01, codebook=0.01),
  "codebook features": Entry(B.CodebookFeatures(1024, WIDTH, 4), pull=0.0),
  "entropy bottleneck": Entry(B.EntropyBottleneck(WIDTH, 15), codebook=0.1, rate=1e-3),
  "Gaussian conditional": Entry(NormalChannels(B.GaussianConditional(WIDTH, 15)), rate=1e-3),
  "key-value": Entry(B.KeyValueBottleneck(8, 256, 8, WIDTH, WIDTH), averages=True),
}
LARGE = 100_000
ENTRIES |= {
  "VQ, 100,000": Entry(B.VQ(LARGE, 8), width=8),
  "codebook transfer, 100,000": Entry(B.TransferVQ(LARGE, 64, 8), pull=1.0, codebook=0.33, width=8),
}


class Autoencoder(nn.Module):
  """Two strided convolutions and a residual block to latents, and their mirror."""

  bottleneck: nn.Module | None
  narrow: int

  def setup(self):
    conv = functools.partial(nn.Conv, kernel_size=(3, 3))
    self.down = [nn.Conv(32, (4, 4), (2, 2)), nn.Conv(64, (4, 4), (2, 2))]
    self.into = [conv(64), conv(64), nn.Conv(self.narrow, (1, 1))]
    self.back = [conv(64), conv(64), conv(64)]
    self.up = [conv(32 * 4), conv(3 * 4)]

  def features(self, x):
    for layer in self.down:
      x = nn.silu(layer(x))
    return x + self.into[1](nn.silu(self.into[0](x)))

  def encode(self, x):
    return self.into[2](self.features(x))

  def decode(self, z):
    x = self.back[0](z)
    x = nn.silu(x + self.back[2](nn.silu(self.back[1](x))))
    return _twice(self.up[1](nn.silu(_twice(self.up[0](x)))))

  def __call__(self, x):
    z = self.encode(x)
    out = None if self.bottleneck is None else self.bottleneck(z)
    return self.decode(z if out is None else out.z), out


def _twice(x):
  """[B, H, W, 4 C] to [B, 2 H, 2 W, C]."""
  batch, height, width, _ = x.shape
  x = x.reshape(batch, height, width, 2, 2, -1).swapaxes(2, 3)
  return x.reshape(batch, 2 * height, 2 * width, -1)


def read_photos(path: pathlib.Path, number: int) -> list[np.ndarray]:
  """Halved photographs as uint8 [height, width, 3]."""
  photos = []
  with tarfile.open(path) as tar:
    for member in tar.getmembers()[:number]:
      file = tar.extractfile(member)
      if file is not None:
        photos.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB").reduce(2)))
  return photos


def crop(photo: np.ndarray, top: int, left: int) -> np.ndarray:
  return photo[top : top + 4 * SIDE, left : left + 4 * SIDE]


def random_crops(rng, photos: list[np.ndarray], number: int) -> np.ndarray:
  """float32 [number, 32, 32, 3] in [-1, 1]."""
  found = []
  for index in rng.integers(0, len(photos), number):
    height, width, _ = photos[index].shape
    corner = rng.integers(0, (height - 4 * SIDE + 1, width - 4 * SIDE + 1))
    found.append(crop(photos[index], *corner))
  return np.stack(found).astype(np.float32) / 127.5 - 1


def grid_crops(photos: list[np.ndarray]) -> np.ndarray:
  """The four crops about the centre of each photograph."""
  found = []
  for photo in photos:
    top, left = photo.shape[0] // 2 - 4 * SIDE, photo.shape[1] // 2 - 4 * SIDE
    steps = (0, 4 * SIDE)
    found += [crop(photo, max(top, 0) + i, max(left, 0) + j) for i in steps for j in steps]
  return np.stack(found).astype(np.float32) / 127.5 - 1


def init_state(key, entry: Entry, x, source):
  """Parameters, running averages and optimizer; frozen vectors are `source`."""
  net = Autoencoder(entry.module, entry.width)
  params = jax.jit(net.init)(key, x)["params"]
  inner = params.get("bottleneck", {})
  ema = None
  if entry.averages:
    z = np.asarray(net.apply({"params": params}, x, method="encode")).reshape(-1, WIDTH)
    inner["codebooks"], ema = start_codebooks(key, entry.module, inner, jnp.asarray(z))
  if source is not None:
    inner["frozen"] = source
    z = net.apply({"params": params}, x, method="encode")
    kernel, bias = F.matched_projection(source, z)
    inner["projection"] = {"kernel": kernel, "bias": bias}
  return {"params": params, "ema": ema, "optimizer": optimizer().init(params)}


def start_codebooks(key, module, inner, z):
  """k-means on latents [N, D], to the shape of the codebooks."""
  shape = inner["codebooks"].shape
  stages = functools.partial(F.residual_kmeans, num_codebooks=shape[-3], size=shape[-2])
  if isinstance(module, B.GroupResidualVQ):
    parts = jnp.stack(jnp.split(z, module.num_groups, axis=-1))
    return jax.vmap(stages, in_axes=(None, 0))(key, parts)
  if isinstance(module, B.KeyValueBottleneck | B.CosineVQ):
    parts = module.apply({"params": inner}, z, None, method="inputs")
    return jax.vmap(functools.partial(F.kmeans, size=shape[-2]), in_axes=(None, 0))(key, parts)
  return stages(key, z)


def optimizer():
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-3))


def make_step(entry: Entry):
  net = Autoencoder(entry.module, entry.width)

  def loss(params, x):
    y, out = net.apply({"params": params}, x)
    total = jnp.mean((x - y) ** 2) + entry.pull * out.loss
    if out.codebook_loss is not None and not entry.averages:
      total += entry.codebook * out.codebook_loss
    if out.entropy_loss is not None:
      total += entry.entropy * out.entropy_loss
    if entry.rate:
      total += entry.rate * out.bits.mean()
    return total, out

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state, x, rate):
    params = state["params"]
    gradients, out = jax.grad(loss, has_aux=True)(params, x)
    updates, opt = optimizer().update(gradients, state["optimizer"])
    new = jax.tree.map(lambda p, u: p + rate * u, params, updates)
    ema = state["ema"]
    if entry.averages:
      codebooks, ema = F.ema_update(ema, out.statistics, 0.95)
      new["bottleneck"]["codebooks"] = codebooks
    return {"params": new, "ema": ema, "optimizer": opt}

  @jax.jit
  def restart(state, x, key):
    """What was hardly used becomes what this batch holds."""
    params, ema, module = state["params"], state["ema"], entry.module
    inner = {"params": params["bottleneck"]}
    z = net.apply({"params": params}, x, method="encode")
    codes = module.apply(inner, z, method="encode")
    inputs = module.apply(inner, z, codes, method="inputs")
    books = params["bottleneck"]["codebooks"]
    inputs = inputs.reshape(*books.shape[:-2], -1, books.shape[-1])
    threshold = 0.1 * ema.counts.mean(axis=-1, keepdims=True)
    books, ema = F.restart_dead_codes(key, books, ema, inputs, threshold)
    bottleneck = params["bottleneck"] | {"codebooks": books}
    return state | {"params": params | {"bottleneck": bottleneck}, "ema": ema}

  @jax.jit
  def score(params, x):
    y, out = net.apply({"params": params}, x)
    price = jnp.zeros(()) if out.bits is None else out.bits.mean()
    return jnp.mean((x - y) ** 2), price, out.codes

  return step, restart, score


def measure(entry: Entry, score: Callable, params, x, size=100):
  """`(mse, bits, use, perplexity)` over all of x."""
  sizes = entry.module.codebook_sizes
  if isinstance(entry.module, B.CodebookFeatures):
    sizes = sizes[:1]
  counts, errors, prices = np.zeros((len(sizes), sizes[0])), [], []
  for start in range(0, len(x), size):
    error, price, codes = score(params, x[start : start + size])
    codes = np.asarray(codes).reshape(-1, len(sizes))
    counts += [np.bincount(column, minlength=sizes[0]) for column in codes.T]
    errors.append(float(error))
    prices.append(float(price))
  health = F.code_health(counts)
  length = sum(math.log2(size) for size in entry.module.codebook_sizes) * entry.tokens / SIDE**2
  spent = np.mean(prices) if entry.rate else length
  return np.mean(errors), spent, float(health["codebook_use"]), float(health["perplexity"])


def train(name: str, entry: Entry, photos, test, options):
  """Trains one; `(mse, bits, use, perplexity, milliseconds a step, [(step, use), ...])`."""
  rng, key = np.random.default_rng(0), jax.random.key(0)
  large = max(entry.module.codebook_sizes) == LARGE
  steps = options.large_steps if large else options.steps
  first = jnp.asarray(random_crops(rng, photos, 64))
  source = harvest(photos, steps) if isinstance(entry.module, B.TransferVQ) else None
  state = init_state(key, entry, first, source)
  step, restart, score = make_step(entry)
  shown, times, curve = test[::4], [], []
  every = max(steps // 6, 1)
  for n in range(steps):
    x = jnp.asarray(random_crops(rng, photos, 16))
    rate = min(1.0, (n + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * n / steps))
    start = time.perf_counter()
    state = jax.block_until_ready(step(state, x, rate))
    times.append(1e3 * (time.perf_counter() - start))
    if entry.averages and n % 20 == 19 and n < 0.8 * steps:
      state = restart(state, x, jax.random.fold_in(key, n))
    if n % every == 0 or n == steps - 1:
      curve.append((n + 1, measure(entry, score, state["params"], shown)[2]))
  many = random_crops(rng, photos, options.large_crops) if large else test
  mse, spent, use, perplexity = measure(entry, score, state["params"], many)
  if large:
    mse = measure(entry, score, state["params"], test)[0]
  return mse, spent, use, perplexity, float(np.median(times[2:])), curve


def harvest(photos, steps: int) -> jnp.ndarray:
  """LARGE frozen vectors: features of an encoder that learnt with no bottleneck, seen once each."""
  rng, net = np.random.default_rng(1), Autoencoder(None, 8)
  params = jax.jit(net.init)(jax.random.key(1), random_crops(rng, photos, 1))["params"]
  opt = optimizer().init(params)

  @jax.jit
  def step(params, opt, x, rate):
    loss = lambda params: jnp.mean((x - net.apply({"params": params}, x)[0]) ** 2)  # noqa: E731
    updates, opt = optimizer().update(jax.grad(loss)(params), opt)
    return jax.tree.map(lambda p, u: p + rate * u, params, updates), opt

  for n in range(steps):
    params, opt = step(params, opt, random_crops(rng, photos, 16), min(1, 2 - 2 * n / steps))
  features = jax.jit(lambda x: net.apply({"params": params}, x, method="features"))
  many = [features(random_crops(rng, photos, 100)).reshape(-1, 64) for _ in range(40)]
  rows = np.concatenate(many)
  return jnp.asarray(rows[rng.choice(len(rows), LARGE, replace=False)])


def draw(folder: pathlib.Path, name: str, curve) -> None:
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  folder.mkdir(parents=True, exist_ok=True)
  figure, axes = plt.subplots(figsize=(3.2, 1.8), dpi=80, layout="constrained")
  axes.plot(*zip(*curve, strict=True), color="#1f5f8b", linewidth=1.5)
  axes.set(ylim=(-0.03, 1.03), xlabel="step", ylabel="entries in use")
  axes.set_title(name, fontsize=9)
  axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.png")
  plt.close(figure)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--only", nargs="*", choices=ENTRIES, default=None)
  parser.add_argument("--pictures", type=pathlib.Path, default=None)
  parser.add_argument("--steps", type=int, default=150)
  parser.add_argument("--large-steps", type=int, default=600, help="with 100,000 entries")
  parser.add_argument("--large-crops", type=int, default=8000, help="to count use on, training's")
  options = parser.parse_args()
  photos = read_photos(options.data / "photos_train.tar", 1000)
  test = grid_crops(read_photos(options.data / "photos_test.tar", 100))
  print("| bottleneck | bits | MSE | use | perplexity | step, ms |")
  print("|---|---:|---:|---:|---:|---:|")
  for name in options.only or ENTRIES:
    entry = ENTRIES[name]
    mse, bits, use, perplexity, spent, curve = train(name, entry, photos, test, options)
    print(
      f"| {name} | {bits:.1f} | {mse:.4f} | {use:.1%} | {perplexity:.0f} | {spent:.0f} |",
      flush=True,
    )
    if options.pictures:
      draw(options.pictures, name, curve)


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
