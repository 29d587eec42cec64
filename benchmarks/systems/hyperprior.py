"""Two hyperpriors trained on the same crops, for the same steps, at the same learning rates.

    python -m benchmarks.systems.hyperprior --train PHOTOS.tar --test PHOTOS.tar --peer PYTHON
      [--steps 2000] [--seeds 2] [--filters 64] [--latents 96] [--crop 128] [--rate 5e-4]
      [--lambdas 0.003 0.01 0.03 0.1] [--principal] [--apart]

trains the scale hyperprior here and in CompressAI; PYTHON is an interpreter with CompressAI 1.2.8.

Each model has one lambda. Each pair of models starts from the weights that CompressAI draws, and
sees the same crops and the same noise in the same order, so that no luck is between them; Adam at
a rate that falls by half a cosine. `--principal` makes the transforms of what is drawn principal
components of the pictures first: a linear codec, from which a short run comes to curves as steep as
those of codecs in use. `--apart` lets each library draw its own weights and noise.
Rates are those of the likelihoods of rounded latents, on the middle of each test picture, in tiles
as large as the crops: a codec that saw nothing but edges has rates of luck on larger pictures. The
BD-rate is that of the means over seeds.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import pathlib
import subprocess
import sys
import tarfile
import tempfile
from unittest import mock

import numpy as np
from PIL import Image

LAMBDAS = (0.003, 0.01, 0.03, 0.1)
ROWS, TEST_SIDE, CLIP = 8, 192, 1.0


def pictures(path: pathlib.Path, side: int) -> list[np.ndarray]:
  """uint8 [H, W, 3] of a tar's pictures that are `side` or more both ways."""
  found = []
  with tarfile.open(path) as tar:
    for member in sorted(tar, key=lambda member: member.name):
      with Image.open(tar.extractfile(member)) as picture:
        if min(picture.size) >= side:
          found.append(np.asarray(picture.convert("RGB")))
  return found


def crops(found: list[np.ndarray], seed: int, options):
  """float32 [ROWS, side, side, 3] from 0 to 1 for each step."""
  rng, side = np.random.default_rng(seed), options.crop
  for _ in range(options.steps):
    batch = []
    for index in rng.integers(len(found), size=ROWS):
      x = found[index]
      top, left = (rng.integers(size - side + 1) for size in x.shape[:2])
      batch.append(x[top : top + side, left : left + side])
    yield np.stack(batch).astype(np.float32) / 255


def of_test(path: pathlib.Path, side: int) -> np.ndarray:
  """float32 [N, tiles, side, side, 3] from 0 to 1, of the middles."""
  across = max(1, TEST_SIDE // side)
  middles = []
  for x in pictures(path, across * side):
    top, left = ((size - across * side) // 2 for size in x.shape[:2])
    x = x[top : top + across * side, left : left + across * side]
    x = x.reshape(across, side, across, side, 3).swapaxes(1, 2)
    middles.append(x.reshape(-1, side, side, 3))
  return np.stack(middles).astype(np.float32) / 255


def of_batches(test: np.ndarray, run) -> dict[str, float]:
  """Mean bits a pixel and PSNR, of a function of a batch that gives bits and pictures [0, 1]."""
  rates, quality = [], []
  for start in range(0, len(test), 10):
    x = test[start : start + 10]
    bits, y = run(x.reshape(-1, *x.shape[2:]))
    rates.append(np.asarray(bits).mean() / x[0, 0, :, :, 0].size)
    errors = np.square(np.clip(np.asarray(y), 0, 1).reshape(x.shape) - x)
    quality.append(-10 * np.log10(errors.reshape(len(x), -1).mean(axis=1)).mean())
  return {"bits": float(np.mean(rates)), "psnr": float(np.mean(quality))}


def noises(seed: int, options):
  """Noise of side information and of latents for each step, float32 [ROWS, H, W, C]."""
  rng = np.random.default_rng((seed, 1))
  sizes = (options.crop // 64, options.filters), (options.crop // 16, options.latents)
  for _ in range(options.steps):
    yield tuple(rng.random((ROWS, side, side, c), np.float32) - 0.5 for side, c in sizes)


def path_of(options, seed: int, trade_off: float) -> pathlib.Path:
  """Of the weights that a pair starts from."""
  return options.starts / f"{seed}-{trade_off}.pth"


@functools.cache
def functions_of(filters: int, latents: int, crop: int, steps: int, rate: float):
  """`(init, step, run)` here, compiled once for all lambdas and seeds."""
  import jax

  from jaxcodec import functional as F
  from jaxcodec.data.pictures import Pictures
  from jaxcodec.image.hyperprior import ScaleHyperprior
  from jaxcodec.training import rate_distortion
  from jaxcodec.training.config import Adam, LearningRate

  config = rate_distortion.TrainPictures(
    name="hyperprior",
    codec=ScaleHyperprior(filters=filters, latents=latents),
    data=Pictures(size=(crop, crop)),
    batch_size=ROWS,
    num_steps=steps,
    optimizer=Adam(rate=LearningRate(peak=rate, cosine=True), clip_norm=CLIP),
    lambdas=(1.0, 1.0),
    median_rate=1e-3,
  )

  def step(state, x, key, trade_off, given):
    weighed = dataclasses.replace(config, lambdas=(trade_off, trade_off))
    left = list(given)
    with contextlib.ExitStack() as stack:
      if left:
        stack.enter_context(mock.patch.object(F, "uniform_noise", lambda _, z: z + left.pop(0)))
      return rate_distortion.train_step(state, x, key, config=weighed)[0]

  def run(params, x):
    coded = config.codec.apply({"params": params}, 2 * x - 1)
    bits = [
      F.information_bits(p).reshape(len(x), -1).sum(axis=1) for p in coded.likelihoods.values()
    ]
    return sum(bits[1:], bits[0]), (coded.x_hat + 1) / 2

  init = functools.partial(rate_distortion.init_state, config=config)
  return jax.jit(init), jax.jit(step, donate_argnums=0), jax.jit(run)


def train_ours(options, trade_off: float, seed: int, train, test) -> dict[str, float]:
  import jax

  import jaxcodec

  sizes = options.filters, options.latents, options.crop, options.steps, options.rate
  init, step, run = functions_of(*sizes)
  key = jax.random.key(seed)
  state = init(key)
  if not options.apart:
    state = state._replace(
      params=jax.device_put(jaxcodec.load(path_of(options, seed, trade_off)).params)
    )
  given = itertools.repeat(()) if options.apart else noises(seed, options)
  for x, noise in zip(crops(train, seed, options), given, strict=False):
    state = step(state, 2 * x - 1, key, trade_off, noise)
  return of_batches(test, functools.partial(run, state.params))


def draw_starts(options) -> None:
  """Writes the weights that CompressAI draws for each seed."""
  import compressai.models
  import torch

  bases = components(options) if options.principal else []
  for seed in range(options.seeds):
    for trade_off in options.lambdas:
      torch.manual_seed(seed)
      model = compressai.models.ScaleHyperprior(options.filters, options.latents)
      if bases:
        with torch.no_grad():
          make_linear(model, *bases, trade_off)
      torch.save(model.state_dict(), path_of(options, seed, trade_off))


def components(options) -> tuple[list[np.ndarray], np.ndarray]:
  """Orthonormal kernels [2, 2, in, out] of the four layers, and deviations of what they give."""
  found = pictures(options.train, options.crop)
  x = np.concatenate(list(itertools.islice(crops(found, 0, options), 64))) - 0.5
  kernels = []
  for most in (options.filters,) * 3 + (options.latents,):
    n, h, w, c = x.shape
    squares = x.reshape(n, h // 2, 2, w // 2, 2, c).swapaxes(2, 3).reshape(n, h // 2, w // 2, 4 * c)
    rows = squares.reshape(-1, 4 * c).astype(np.float64)
    _, vectors = np.linalg.eigh(rows.T @ rows)
    kernel = vectors[:, ::-1][:, :most].astype(np.float32)
    kernels.append(kernel.reshape(2, 2, c, -1))
    x = squares @ kernel
  return kernels, x.reshape(-1, x.shape[-1]).std(axis=0)


def make_linear(model, kernels, deviations, trade_off: float) -> None:
  """Sets CompressAI's transforms to the kernels, norms to nearly nothing, scales to deviations.

  What has no component stays as drawn and is not looked at.
  """
  import torch

  # The rounding step at which a bit and an error are worth the same, see training/principal.py.
  gain = 255 * math.sqrt(trade_off / 26)
  for position, kernel in enumerate(kernels):
    analysis, synthesis = model.g_a[2 * position], model.g_s[2 * (3 - position)]
    given, count = kernel.shape[2:]
    last = position == 3
    # Weights of a convolution are [out, in, 5, 5], of a transposed one [in, out, 5, 5].
    taps = torch.from_numpy(kernel).permute(3, 2, 0, 1)
    for layer, scale in ((analysis, gain if last else 1.0), (synthesis, 1 / gain if last else 1.0)):
      layer.weight[:count] = 0
      layer.weight[:count, :given, 2:4, 2:4] = scale * taps
      layer.bias.zero_()
  model.g_a[0].bias -= 0.5 * model.g_a[0].weight.sum(dim=(1, 2, 3))
  model.g_s[6].bias += 0.5
  for norm in (model.g_a[1], model.g_a[3], model.g_a[5], model.g_s[1], model.g_s[3], model.g_s[5]):
    norm.gamma.copy_(norm.gamma_reparam.init(0.02 * torch.eye(len(norm.gamma))))
  model.h_s[4].bias.copy_(gain * torch.from_numpy(deviations))


def train_theirs(options, trade_off: float, seed: int, train, test) -> dict[str, float]:
  import compressai.models
  import torch
  from compressai.entropy_models import EntropyModel

  torch.manual_seed(seed)
  device = "cuda" if torch.cuda.is_available() else "cpu"
  model = compressai.models.ScaleHyperprior(options.filters, options.latents).to(device).train()
  medians = [p for name, p in model.named_parameters() if name.endswith("quantiles")]
  rest = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
  adam, of_medians = torch.optim.Adam(rest, options.rate), torch.optim.Adam(medians, 1e-3)

  def bits_of(likelihoods):
    return sum(-p.log2().flatten(1).sum(dim=1) for p in likelihoods.values())

  def tensor(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2).to(device)

  given, own, left = noises(seed, options), EntropyModel.quantize, []

  def quantize(self, inputs, mode, means=None):
    return inputs + left.pop(0) if mode == "noise" else own(self, inputs, mode, means)

  with contextlib.ExitStack() as stack:
    if not options.apart:
      model.load_state_dict(torch.load(path_of(options, seed, trade_off), weights_only=True))
      stack.enter_context(mock.patch.object(EntropyModel, "quantize", quantize))
    for step, batch in enumerate(crops(train, seed, options)):
      for group in adam.param_groups:
        group["lr"] = options.rate * (0.5 + 0.5 * math.cos(math.pi * step / options.steps))
      z, y = map(tensor, next(given))
      # The side information's rows are its channels.
      left[:] = [z.permute(1, 2, 3, 0).reshape(options.filters, 1, -1), y]
      x = tensor(batch)
      out = model(x)
      bits = bits_of(out["likelihoods"]).mean() / options.crop**2
      loss = bits + trade_off * 255**2 * (out["x_hat"] - x).square().mean()
      adam.zero_grad()
      loss.backward()
      torch.nn.utils.clip_grad_norm_(rest, CLIP)
      adam.step()
      of_medians.zero_grad()
      model.aux_loss().backward()
      of_medians.step()
  model.eval()

  @torch.no_grad()
  def run(x):
    out = model(tensor(x))
    return bits_of(out["likelihoods"]).cpu().numpy(), out["x_hat"].permute(0, 2, 3, 1).cpu().numpy()

  return of_batches(test, run)


LIBRARIES = ("CompressAI", "jaxcodec")


def serve(options) -> None:
  """One side's models, each a line of JSON as it ends."""
  if options.side == "starts":
    draw_starts(options)
    return
  train, test = pictures(options.train, options.crop), of_test(options.test, options.crop)
  for seed in range(options.seeds):
    for trade_off in options.lambdas:
      trained = train_theirs if options.side == "CompressAI" else train_ours
      found = trained(options, trade_off, seed, train, test)
      line = {"side": options.side, "seed": seed, "lambda": trade_off, **found}
      print(json.dumps(line), flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--train", type=pathlib.Path, required=True)
  parser.add_argument("--test", type=pathlib.Path, required=True)
  parser.add_argument("--peer", required=True, help="the interpreter with CompressAI")
  parser.add_argument("--steps", type=int, default=2000)
  parser.add_argument("--seeds", type=int, default=2)
  parser.add_argument("--lambdas", type=float, nargs="+", default=LAMBDAS)
  parser.add_argument("--filters", type=int, default=64)
  parser.add_argument("--latents", type=int, default=96)
  parser.add_argument("--crop", type=int, default=128, help="pixels a side of what is trained on")
  parser.add_argument("--rate", type=float, default=5e-4, help="the highest learning rate")
  parser.add_argument("--principal", action="store_true", help="transforms begin as components")
  parser.add_argument("--apart", action="store_true", help="own starts and noise on each side")
  parser.add_argument("--side", choices=("starts", *LIBRARIES), help=argparse.SUPPRESS)
  parser.add_argument("--starts", type=pathlib.Path, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.side:
    serve(options)
    return
  with tempfile.TemporaryDirectory() as starts:
    report(both(options, starts), options)


def both(options, starts: str) -> list[dict]:
  """What the two sides' processes found, which learn at the same time."""

  def command(python: str, side: str) -> list[str]:
    name = "benchmarks.systems.hyperprior"
    return [python, "-m", name, *sys.argv[1:], "--side", side, "--starts", starts]

  if not options.apart:
    subprocess.run(command(options.peer, "starts"), check=True)
  sides = {
    side: subprocess.Popen(command(python, side), stdout=subprocess.PIPE, text=True)
    for side, python in zip(LIBRARIES, (options.peer, sys.executable), strict=True)
  }
  rows = []
  for side, process in sides.items():
    for line in process.stdout:
      rows.append(json.loads(line))
      print(line.strip(), file=sys.stderr, flush=True)
    if process.wait():
      for other in sides.values():
        other.kill()
      raise SystemExit(f"{side} ended early")
  return rows


def report(rows: list[dict], options) -> None:
  from jaxcodec.metrics.picture import bd_rate

  def curve(side, seeds):
    points = [
      [r for r in rows if (r["side"], r["lambda"]) == (side, x) and r["seed"] in seeds]
      for x in options.lambdas
    ]
    return [[float(np.mean([r[of] for r in p])) for p in points] for of in ("bits", "psnr")]

  every = range(options.seeds)
  print(f"{options.steps} steps of {ROWS} crops of {options.crop}, {options.seeds} seeds\n")
  sides = ("jaxcodec", "CompressAI")
  print("| lambda | " + " | ".join(f"{side}, bits/pixel | PSNR, dB" for side in sides) + " |")
  print("|---:" * (1 + 2 * len(sides)) + "|")
  curves = {side: curve(side, every) for side in sides}
  columns = [column for side in curves.values() for column in side]
  for x, *row in zip(options.lambdas, *columns, strict=True):
    print(f"| {x} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
  loss = {
    (r["side"], r["seed"], r["lambda"]): r["bits"] + r["lambda"] * 255**2 * 10 ** (-r["psnr"] / 10)
    for r in rows
  }
  apart = [
    100 * (loss["jaxcodec", seed, x] / loss["CompressAI", seed, x] - 1)
    for seed in every
    for x in options.lambdas
  ]
  print(
    f"\nLosses here against CompressAI's, {len(apart)} pairs: middle {np.median(apart):+.1f} %, "
    f"mean {np.mean(apart):+.1f} %, from {min(apart):+.1f} to {max(apart):+.1f} %"
  )
  if len(options.lambdas) == 1:
    return
  for seed in every:
    rate = bd_rate(*curve("CompressAI", [seed]), *curve("jaxcodec", [seed]))
    print(f"\nBD-rate of jaxcodec to CompressAI, seed {seed}: {rate:+.2f} %")
  rate = bd_rate(*curves["CompressAI"], *curves["jaxcodec"])
  print(f"\nBD-rate of jaxcodec to CompressAI, means over seeds: {rate:+.2f} %")


if __name__ == "__main__":
  main()
