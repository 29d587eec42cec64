"""LMUFormer against a Transformer and a GRU: accuracy, work, and what a streamed frame takes.

Command: python -m benchmarks.systems.lmuformer --data SOUNDS_DIR [--only accuracy|work|speed]

SOUNDS_DIR holds `esc10.csv` and `esc10.tar`: ESC-10, 10 classes, folds 1 to 3 to train, 4 and 5 to
test; the 1.3 s from each clip's loudest point on, 128 frames. Arms have the same crops,
augmentation (`training.classes`), steps and optimizer, and about the same parameters; the
Transformer is pre-norm, its positions learnt, its answer of the mean over frames; the GRU, of one
layer, answers by the mean of its frames so far, as LMUFormer does. "Without memory" is
LMUFormer with a memory of one number over one frame. "68 %" is the answer after 87 frames. Work is
that of products and convolutions as traced for 128 frames at the published sizes, spectra aside and
the memory as a product: LMUFormer's own, and AST's layers (12 of 768) over as many.
"""

import argparse
import dataclasses
import functools
import io
import pathlib
import tarfile
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import soundfile
import soxr

from benchmarks.systems.short_runs import spread
from configs.lmuformer import ESC10
from jaxcodec import terminal
from jaxcodec.audio.classifier import SAMPLE_RATE, spectra
from jaxcodec.audio.lmuformer import LmuConfig, LmuFormer
from jaxcodec.data.labelled import Example, loudest, read_table
from jaxcodec.layers.norms import batch_statistics
from jaxcodec.training import operations
from jaxcodec.training.classes import Augment, augmented

FRAMES, SIZE, BANDS = 128, 20_720, 128
EARLY = round(0.68 * FRAMES) - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """What `augmented` asks of a network."""

  classes: int = len(ESC10)
  bands: int = BANDS


class Transformer(nn.Module):
  """[B, N, bands] -> ([B, N, K], ()): what all frames say, at each of them."""

  classes: int
  width: int
  hidden: int
  num_layers: int = 2
  num_heads: int = 4

  @nn.compact
  def __call__(self, mel, found=None):
    del found
    start = nn.initializers.normal(0.02)
    places = self.param("places", start, (FRAMES, self.width))
    x = nn.Dense(self.width)(mel) + places[: mel.shape[1]]
    for _ in range(self.num_layers):
      y = nn.LayerNorm()(x)
      x = x + nn.MultiHeadDotProductAttention(self.num_heads)(y, y)
      y = nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(x)))
      x = x + nn.Dense(self.width)(y)
    y = nn.Dense(self.classes, kernel_init=start)(nn.LayerNorm()(x).mean(axis=1))
    return y[:, None], ()


class Gru(nn.Module):
  """[B, N, bands] -> ([B, N, K], ()): what the frames so far say, at each of them."""

  classes: int
  width: int

  @nn.compact
  def __call__(self, mel, found=None):
    del found
    y = nn.RNN(nn.GRUCell(self.width))(nn.Dense(self.width)(mel))
    so_far = jnp.cumsum(y, axis=1) / jnp.arange(1, y.shape[1] + 1)[:, None]
    return nn.Dense(self.classes)(so_far), ()


NETWORK = {"classes": len(ESC10), "width": 64, "hidden": 256}
ARMS: dict[str, nn.Module] = {
  "LMUFormer": LmuFormer(LmuConfig(**NETWORK, memory=64)),
  "without memory": LmuFormer(LmuConfig(**NETWORK, memory=1, theta=1)),
  "Transformer": Transformer(len(ESC10), 64, 276),
  "GRU": Gru(len(ESC10), 131),
  "spiking LMUFormer": LmuFormer(LmuConfig(**NETWORK, memory=128, spiking=True)),
}


def examples(folder: pathlib.Path, *splits: str) -> Example:
  labels = {}
  for split in splits:
    labels |= read_table(str(folder / "esc10.csv"), split, ESC10)
  waves, found = [], []
  with tarfile.open(folder / "esc10.tar") as tar:
    for member in tar:
      name, file = pathlib.PurePath(member.name).name, tar.extractfile(member)
      if name in labels and file is not None:
        x, rate = soundfile.read(io.BytesIO(file.read()), dtype="float32", always_2d=True)
        waves.append(loudest(soxr.resample(x.mean(axis=1), rate, SAMPLE_RATE), SIZE))
        found.append(labels[name])
  return Example(np.stack(waves), np.array(found, np.int32))


def trained(model: nn.Module, train: Example, steps: int, rows: int, seed: int):
  """Parameters after a run."""
  params, state, step = _begun(model, steps, seed)
  rng = np.random.default_rng(seed)
  order = np.concatenate([rng.permutation(len(train.x)) for _ in range(1 + steps * rows // 240)])
  for i in range(steps):
    batch = jax.tree.map(lambda leaf, i=i: leaf[order[i * rows : (i + 1) * rows]], train)
    params, state = step(params, state, batch, jax.random.fold_in(jax.random.key(seed), i))
  return params


@functools.cache
def _step(model: nn.Module, steps: int):
  optimizer = optax.adam(optax.cosine_decay_schedule(2.5e-3, steps), 0.95, 0.999)

  def init(key):
    params = model.init(key, jnp.zeros((1, 1, BANDS)))["params"]
    return params, optimizer.init(params)

  def step(params, state, batch, key):
    mel, target = augmented(key, batch, Shape(), Augment())

    def loss(params):
      found: dict[str, Any] = {}
      logits = model.apply({"params": params}, mel, found=found)[0][:, -1]
      return optax.sigmoid_binary_cross_entropy(logits, target).mean(), found

    gradient, found = jax.grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(gradient, state)
    return batch_statistics(optax.apply_updates(params, updates), found), state

  # It runs once a seed; on a CPU, optimizing its many draws takes far longer than they do.
  quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  return jax.jit(init, compiler_options=quick), jax.jit(step)


def _begun(model: nn.Module, steps: int, seed: int):
  init, step = _step(model, steps)
  return *init(jax.random.key(seed)), step


@functools.cache
def _answers(model: nn.Module):
  def run(params, x):
    logits = model.apply({"params": params}, spectra(x, BANDS))[0]
    return logits[:, -1].argmax(axis=-1), logits[:, min(EARLY, logits.shape[1] - 1)].argmax(axis=-1)

  return jax.jit(run)


def accuracy(folder: pathlib.Path, steps: int, seeds: int, only: str | None) -> None:
  train, test = examples(folder, "train"), examples(folder, "val", "test")
  print(f"{steps} steps of 48, {seeds} seeds; {len(test.x)} clips to test\n")
  print("| network | parameters | million multiply-adds | accuracy, % | at 68 % |")
  print("|---|---:|---:|---:|---:|")
  for name, model in ARMS.items():
    if only not in (None, name):
      continue
    whole, early, size = [], [], 0
    for seed in range(seeds):
      params = trained(model, train, steps, 48, seed)
      answers = _answers(model)(params, test.x)
      right = [100 * float(np.mean(np.asarray(part) == test.label)) for part in answers]
      whole.append(right[0])
      early.append(right[1])
      size = sum(leaf.size for leaf in jax.tree.leaves(params))
      terminal.say(f"seed {seed}: {name} {right}")
    early_text = "" if isinstance(model, Transformer) else spread(early, 1)
    macs = multiply_adds(model) / 1e6
    print(f"| {name} | {size} | {macs:.1f} | {spread(whole, 1)} | {early_text} |", flush=True)


def shapes_of(model: nn.Module):
  example = jax.ShapeDtypeStruct((1, 1, BANDS), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), example)["params"]


def multiply_adds(model: nn.Module) -> float:
  """Of 128 frames."""
  mel = jax.ShapeDtypeStruct((1, FRAMES, BANDS), jnp.float32)
  run = lambda params, mel: model.apply({"params": params}, mel)  # noqa: E731
  return operations.flops(jax.make_jaxpr(run)(shapes_of(model), mel).jaxpr) / 2


def work() -> None:
  published = {
    "LMUFormer": LmuFormer(LmuConfig(classes=35)),
    "spiking LMUFormer": LmuFormer(LmuConfig(classes=35, memory=512, spiking=True)),
    "Transformer, 12 layers of 768": Transformer(35, 768, 3072, num_layers=12, num_heads=12),
  }
  print("| network | million parameters | million multiply-adds |")
  print("|---|---:|---:|")
  for name, model in published.items():
    size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes_of(model))) / 1e6
    print(f"| {name} | {size:.2f} | {multiply_adds(model) / 1e6:.0f} |")


def speed() -> None:
  """A frame of a stream, and a second of sound at once, at the published size, weights as drawn."""
  rng = np.random.default_rng(0)
  print("| network | streamed - whole | ms a streamed frame | times real time, whole |")
  print("|---|---:|---:|---:|")
  for name, spiking, memory in (("LMUFormer", False, 256), ("spiking LMUFormer", True, 512)):
    model = LmuFormer(LmuConfig(classes=35, memory=memory, spiking=spiking))
    params = jax.tree.map(lambda leaf: _drawn(rng, leaf), shapes_of(model))
    for layer, arrays in params.items():
      if "variance" in arrays:
        arrays["variance"] = np.abs(arrays["variance"]) + 0.3
        # The one neuron of a memory is to fire.
        arrays["scale"] = np.abs(arrays["scale"]) + 1.0
        arrays["bias"] += float(layer.endswith("memory_input_norm"))
    # On the device: NumPy's would be copied there with every frame.
    params = jax.device_put(params)
    run = jax.jit(
      lambda params, mel, state, final, model=model: model.apply(
        {"params": params}, mel, state, final
      ),
      static_argnums=3,
    )
    mel = rng.normal(size=(1, FRAMES, BANDS)).astype(np.float32)
    whole, _ = run(params, mel, None, True)
    y, state = run(params, mel[:, :16], None, False)
    parts, times = [np.asarray(y)], []
    for i in range(16, FRAMES):
      start = time.perf_counter()
      y, state = run(params, mel[:, i : i + 1], state, i == FRAMES - 1)
      parts.append(np.asarray(y))
      times.append(time.perf_counter() - start)
    apart = np.abs(np.concatenate(parts, axis=1) - np.asarray(whole)).max()
    apart /= np.asarray(whole).std()
    best = np.inf
    for _ in range(5):
      start = time.perf_counter()
      run(params, mel, None, True)[0].block_until_ready()
      best = min(best, time.perf_counter() - start)
    frame = 1e3 * float(np.median(times[1:-1]))
    print(f"| {name} | {apart:.0e} | {frame:.2f} | {FRAMES / 100 / best:.0f} |", flush=True)


def _drawn(rng, leaf):
  spread_of = max(1, int(np.prod(leaf.shape[:-1]))) ** -0.5 if len(leaf.shape) > 1 else 0.2
  return (spread_of * rng.normal(size=leaf.shape)).astype(np.float32)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--only", choices=("accuracy", "work", "speed"))
  parser.add_argument("--arm", choices=tuple(ARMS), help="of the accuracies, one alone")
  parser.add_argument("--steps", type=int, default=150)
  parser.add_argument("--seeds", type=int, default=3)
  options = parser.parse_args()
  if options.only in (None, "work"):
    work()
  if options.only in (None, "speed"):
    speed()
  if options.only in (None, "accuracy"):
    accuracy(options.data, options.steps, options.seeds, options.arm)


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
