"""Steps a second of EnCodec's training step, beside the same step in PyTorch.

    python benchmarks/training.py [--rows 4] [--seconds 0.5] [--rounds 5] [--filters 32]
        [--peers published kept once]
    JAX_PLATFORMS=cuda python benchmarks/training.py --gpu --rows 32 --seconds 1

The step: SEANet with an LSTM, 8 codebooks of 1024 entries by moving averages, L1 and mel losses, an
MS-STFT discriminator of three scales, Adam for both, float32. PyTorch has transformers' EnCodec
modules and the discriminator of tests/parity; as published, the discriminator updated first and
both signals judged again, and as here, each signal judged once. All of them keep moving averages
of the codec's weights, as audiocraft does. Ours also checks every gradient and counts codes. Each
side has a process of its own, and they take steps in turn. Ours keeps freed memory on CPU, as
launch.train has it; PyTorch as published is there both with that and without. Needs the parity
extra.
"""

import argparse
import contextlib
import functools
import multiprocessing
import os
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as TF
import transformers
from transformers.audio_utils import mel_filter_bank

from jaxcodec import terminal
from jaxcodec.audio.encodec import Encodec
from jaxcodec.data.sound import Sound
from jaxcodec.layers.seanet import SEANetConfig
from jaxcodec.training import sharding
from jaxcodec.training.config import Adam, Adversary, LearningRate, Losses, Quantization, Train
from jaxcodec.training.discriminators import MultiScaleSTFT
from jaxcodec.training.losses import MelScales
from jaxcodec.training.placed import placed_step

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "parity"))
import training_reference as reference

WINDOWS = (1024, 2048, 512)
MELS = ((512, 64), (1024, 64))
STAGES, SIZE, RATE = 8, 1024, 24_000
# 10^12 products and sums of bfloat16 a second, dense, of an H100 or H200: the maker's figure.
PEAK = 989
L1, MEL, ADVERSARIAL, FEATURES = 0.1, 2.0, 3.0, 3.0


def ours(rows: int, seconds: float, filters: int, gpu: bool):
  """A function that takes one step, and the step's FLOPs."""
  net = SEANetConfig(num_filters=filters)
  codec = Encodec(
    net=net, sample_rate=RATE, num_codebooks=STAGES, codebook_size=SIZE, bitrates=(6000,)
  )
  adam = Adam(rate=LearningRate(peak=3e-4), b1=0.5)
  mel = MelScales(scales=MELS, log_l1=1.0)
  config = Train(
    name="benchmark",
    codec=codec,
    data=Sound(segment_seconds=seconds),
    batch_size=rows,
    num_steps=1000,
    optimizer=adam,
    losses=Losses(l1=L1, mel=MEL, mel_scales=mel, adversarial=ADVERSARIAL, features=FEATURES),
    adversary=Adversary(discriminators=(MultiScaleSTFT(windows=WINDOWS),), optimizer=adam),
    quantization=Quantization(),
    compute_dtype=jnp.bfloat16 if gpu else jnp.float32,
  )
  key = jax.random.key(0)
  placed = placed_step(config, sharding.make_mesh(config.mesh, jax.devices()[:1]))
  state = jax.jit(placed.init, out_shardings=placed.shardings)(key)
  x = jax.device_put(wave(rows, seconds))
  lowered = placed.step_at(0).lower(state, x, key)
  step = lowered.compile()

  def take():
    nonlocal state
    state, metrics = step(state, x, key)
    return float(metrics["objective"])

  # Of the program as written: what libraries compute is not counted once it is compiled.
  return take, lowered.cost_analysis()["flops"]


def wave(rows: int, seconds: float) -> np.ndarray:
  samples = int(seconds * RATE) // 320 * 320
  return np.random.default_rng(0).normal(0, 0.1, (rows, samples, 1)).astype(np.float32)


class Codebooks:
  """A residual quantizer that moving averages train, with one straight-through for all stages."""

  def __init__(self, features: int, device: str):
    self.entries = torch.randn(STAGES, SIZE, features, device=device)
    self.counts = torch.ones(STAGES, SIZE, device=device)
    self.sums = self.entries.clone()

  def __call__(self, z):
    rows = z.transpose(1, 2).reshape(-1, z.shape[1])
    residual, total, loss = rows, torch.zeros_like(rows), 0.0
    for stage in range(STAGES):
      book = self.entries[stage]
      given = residual.detach()
      distance = book.square().sum(dim=1) - 2 * given @ book.T
      codes = distance.argmin(dim=1)
      chosen = book[codes]
      loss = loss + (residual - chosen).square().mean() / STAGES
      with torch.no_grad():
        count = torch.bincount(codes, minlength=SIZE).float()
        summed = torch.zeros_like(book).index_add_(0, codes, given)
        self.counts[stage].mul_(0.99).add_(count, alpha=0.01)
        self.sums[stage].mul_(0.99).add_(summed, alpha=0.01)
        n = self.counts[stage]
        smoothed = (n + 1e-5) / (n.sum() + SIZE * 1e-5) * n.sum()
        self.entries[stage] = self.sums[stage] / smoothed[:, None]
      residual, total = residual - chosen, total + chosen
    out = rows + (total - rows).detach()
    return out.reshape(z.shape[0], -1, z.shape[1]).transpose(1, 2), loss


def theirs(rows: int, seconds: float, filters: int, gpu: bool, *, published: bool):
  """A function that takes one step in PyTorch."""
  torch.manual_seed(0)
  device = "cuda" if gpu else "cpu"
  model = transformers.EncodecModel(transformers.EncodecConfig(num_filters=filters)).train()
  judges = torch.nn.ModuleList(reference.StftScale(window, 32, 1) for window in WINDOWS)
  model, judges = model.to(device), judges.to(device)
  codec_parameters = [*model.encoder.parameters(), *model.decoder.parameters()]
  averages = [parameter.detach().clone() for parameter in codec_parameters]
  codec_adam = torch.optim.Adam(codec_parameters, 3e-4, (0.5, 0.999))
  judges_adam = torch.optim.Adam(judges.parameters(), 3e-4, (0.5, 0.999))
  books = Codebooks(128, device)
  if gpu:
    for module in (model.encoder, model.decoder, *judges):
      module.compile()
  lower = functools.partial(torch.autocast, device, torch.bfloat16, enabled=gpu)
  x = torch.from_numpy(wave(rows, seconds)).transpose(1, 2).to(device)
  filters_of = {
    window: torch.from_numpy(
      mel_filter_bank(window // 2 + 1, bands, 0.0, RATE / 2, RATE, mel_scale="htk")
    )
    .float()
    .to(device)
    for window, bands in MELS
  }

  def mel_loss(y):
    total = 0.0
    for window, _ in MELS:
      side = (window - window // 4) // 2
      logs = []
      for signal in (x, y):
        signal = TF.pad(signal, (side, side), mode="reflect")
        found = reference.spectrum(signal, window, center=False, normalized=True)
        magnitude = (torch.view_as_real(found).square().sum(dim=-1) + 1e-12).sqrt()
        logs.append((magnitude.transpose(2, 3) @ filters_of[window] + 1e-5).log10())
      total = total + (logs[0] - logs[1]).abs().mean() / len(MELS)
    return total

  def judge(signal):
    with lower():
      return [scale(signal) for scale in judges]

  def discriminator_loss(real, fake):
    pairs = zip(real, fake, strict=True)
    return sum(TF.relu(1 - a).mean() + TF.relu(1 + b).mean() for (a, _), (b, _) in pairs) / 3

  def generator_loss(real, fake):
    adversarial = sum(-logits.mean() for logits, _ in fake) / 3
    pairs = [
      (a.detach(), b)
      for (_, r), (_, f) in zip(real, fake, strict=True)
      for a, b in zip(r, f, strict=True)
    ]
    features = sum((a - b).abs().mean() for a, b in pairs) / len(pairs)
    return ADVERSARIAL * adversarial + FEATURES * features

  def take():
    with lower():
      z = model.encoder(x)
    z, commitment = books(z.float())
    with lower():
      y = model.decoder(z)[..., : x.shape[-1]]
    y = y.float()
    near = L1 * (x - y).abs().mean() + MEL * mel_loss(y)
    judges_adam.zero_grad()
    codec_adam.zero_grad()
    if published:
      discriminator_loss(judge(x), judge(y.detach())).backward()
      judges_adam.step()
      with torch.no_grad():
        real = judge(x)
      (near + generator_loss(real, judge(y)) + 0.25 * commitment).backward()
    else:
      held = y.detach().requires_grad_()
      real, fake = judge(x), judge(held)
      (by_judges,) = torch.autograd.grad(generator_loss(real, fake), held, retain_graph=True)
      discriminator_loss(real, fake).backward()
      judges_adam.step()
      surrogate = (y * by_judges).sum()
      (near + surrogate + 0.25 * commitment).backward()
    codec_adam.step()
    with torch.no_grad():
      torch._foreach_lerp_(averages, codec_parameters, 0.01)
    return float(near.detach())

  return take


OURS = "jaxcodec"
PEERS = {
  "published": "PyTorch, as published",
  "kept": "PyTorch, as published, memory kept",
  "once": "PyTorch, judged once, memory kept",
}


def side(pipe, name: str, size: tuple) -> None:
  """A side's process: sends what it is, then the seconds of a step for each thing it is sent."""
  if name != PEERS["published"]:
    terminal.keep_freed_memory()
  about = None
  if name == OURS:
    step, flops = ours(*size)
    about = flops, jax.devices()[0].device_kind
  else:
    step = theirs(*size, published=name != PEERS["once"])
  step()  # Compiles, or warms up.
  pipe.send(about)
  with contextlib.suppress(EOFError):  # Until nobody asks any more.
    while pipe.recv():
      start = time.perf_counter()
      step()
      pipe.send(time.perf_counter() - start)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rows", type=int, default=4)
  parser.add_argument("--seconds", type=float, default=0.5)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--filters", type=int, default=32)
  parser.add_argument("--gpu", action="store_true")
  parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
  options = parser.parse_args()
  sides = OURS, *(PEERS[name] for name in options.peers)
  size = options.rows, options.seconds, options.filters, options.gpu
  os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # The sides share a GPU.
  context = multiprocessing.get_context("spawn")
  pipes = {}
  for name in sides:
    pipes[name], end = context.Pipe()
    context.Process(target=side, args=(end, name, size), daemon=True).start()
    end.close()
  about, times = {}, {name: [] for name in sides}
  try:
    for name, pipe in pipes.items():
      about[name] = pipe.recv()
    for _ in range(options.rounds + 1):
      for name, pipe in pipes.items():
        pipe.send(True)
        times[name].append(pipe.recv())
  except (EOFError, BrokenPipeError):
    sys.exit(f"the process of {name} has ended, for lack of memory perhaps: try fewer --peers")
  # In the first round the others have just been compiling.
  middle = {name: float(np.median(taken[1:])) for name, taken in times.items()}
  print(f"{options.rows} rows of {options.seconds} s, {options.filters} filters")
  print("| step | s/step | steps/s | ours is faster by |\n|---|---:|---:|---:|")
  for name, taken in middle.items():
    print(f"| {name} | {taken:.4f} | {1 / taken:.2f} | {taken / middle[OURS]:.2f}x |")
  if options.gpu:
    flops, card = about[OURS]
    share = flops / middle[OURS] / (1e12 * PEAK)
    print(f"{card}: {flops / 1e12:.2f} TFLOP a step, {share:.1%} of the peak of {PEAK} TFLOP/s")


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
