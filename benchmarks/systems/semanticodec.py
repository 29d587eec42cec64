"""SemantiCodec's claim in miniature: semantic tokens tell sounds apart better than acoustic ones.

Command: python -m benchmarks.systems.semanticodec --sounds SOUNDS_DIR --speech SPEECH_DIR

SOUNDS_DIR holds `esc10.tar` and `esc10.csv`, SPEECH_DIR `speech_train.tar`. The published AudioMAE
is not used: a small masked autoencoder (4 layers of 128, patches of 16 frames and 16 bands) learns
first, on folds 1 to 3 of ESC-10 and as many clips of speech, and then stands still. Semantic tokens
are 256 centroids of its features; acoustic ones 256 entries of a codebook after a recurrent network
both ways, which sees features and centroids, or features alone ("acoustic"). A network of six
convolutions makes the spectrogram of a token's entries, where the published one is a diffusion;
each arm has its own, with zeros for what it lacks, and the same steps and crops. "Mel error" is the
mean absolute difference of its spectrogram on folds 4 and 5, in nepers. Accuracy is of a linear
classifier of 10 classes, learnt on folds 1 to 3 and asked on 4 and 5, which nothing else saw: from
a clip's mean entry, and from its histogram of tokens. Means and standard deviations over seeds.
"""

import argparse
import csv
import functools
import io
import math
import pathlib
import tarfile
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import soundfile
import soxr

from benchmarks.systems.short_runs import spread
from jaxcodec import functional as F, terminal
from jaxcodec.bottlenecks import VQ
from jaxcodec.encoders.mae import MaeConfig, MaeEncoder, MaePredictor, masked_error
from jaxcodec.functional.log_mel import kaldi_log_mel
from jaxcodec.layers.recurrent import BidirectionalLSTM
from pallas_kernels import nearest_code

RATE, ENTRIES, BATCH = 16_000, 256, 16
MAE = MaeConfig(
  frames=256, bands=64, patch=16, width=128, num_heads=4, hidden=512, num_layers=4, taps=2
)
ARMS = {"semantic": (True, False), "acoustic": (False, True), "both": (True, True)}
# Of Kaldi's features over the training clips, roughly.
MEAN, SPREAD = -8.0, 4.0


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--sounds", type=pathlib.Path, required=True)
  parser.add_argument("--speech", type=pathlib.Path, required=True)
  parser.add_argument("--mae-steps", type=int, default=600)
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--seeds", type=int, default=3)
  options = parser.parse_args()
  start = time.process_time()
  clips, labels, folds = esc10(options.sounds)
  speech = some_speech(options.speech, int(np.sum(folds <= 3)))
  train = [clip for clip, fold in zip(clips, folds, strict=True) if fold <= 3] + speech
  rows: dict[str, list[list[float]]] = {name: [] for name in ("features", *ARMS)}
  for seed in range(options.seeds):
    mae, error = trained_mae(train, options.mae_steps, seed)
    terminal.say(f"seed {seed}: masked error {error:.3f}, {time.process_time() - start:.0f} s")
    windows = np.stack([halves(clip) for clip in clips])
    features, sounds = features_of(mae, windows)
    centroids = centroids_of(mae, train, seed)
    rows["features"].append([probe(mean_rows(features, sounds), labels, folds)])
    for name, arm in ARMS.items():
      state = trained_arm(mae, centroids, train, arm, options.steps, seed)
      found = [mel_error(state, mae, centroids, windows[folds > 3], arm)]
      rows[name].append(found + told(state, centroids, features, sounds, labels, folds, arm))
      terminal.say(f"seed {seed}: {name} {rows[name][-1]}, {time.process_time() - start:.0f} s")
  per_second = math.prod(MAE.grid) / (MAE.frames / 100)
  print(
    f"{options.mae_steps} and {options.steps} steps of {BATCH} x 2.56 s, {options.seeds} seeds,"
  )
  print(f"{time.process_time() - start:.0f} s of CPU\n")
  print(
    "| tokens | bit/s | mel error | accuracy, mean entry | accuracy, histogram | entries used |"
  )
  print("|---|---:|---:|---:|---:|---:|")
  (accuracy,) = zip(*rows["features"], strict=True)
  print(f"| features, not quantized | | | {spread(accuracy)} | | |")
  for name, arm in ARMS.items():
    bits = sum(arm) * math.log2(ENTRIES) * per_second
    cells = [spread(column) for column in zip(*rows[name], strict=True)]
    print(f"| {name} | {bits:.0f} | {' | '.join(cells)} |")


def esc10(folder: pathlib.Path) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
  """Spectrograms [frames, bands] of all clips, their classes and their folds."""
  with open(folder / "esc10.csv", newline="") as file:
    table = list(csv.DictReader(file))
  classes = sorted({row["class"] for row in table})
  with tarfile.open(folder / "esc10.tar") as tar:
    clips = [spectrogram(tar, row["file"]) for row in table]
  labels = np.array([classes.index(row["class"]) for row in table])
  return clips, labels, np.array([int(row["fold"]) for row in table])


def some_speech(folder: pathlib.Path, count: int) -> list[np.ndarray]:
  """Spectrograms of the first clips that are at least as long as a window."""
  with tarfile.open(folder / "speech_train.tar") as tar:
    names = sorted(member.name for member in tar.getmembers() if member.isfile())
    found = (spectrogram(tar, name) for name in names)
    long = (clip for clip in found if len(clip) >= MAE.frames)
    return [clip for clip, _ in zip(long, range(count), strict=False)]


def spectrogram(tar: tarfile.TarFile, name: str) -> np.ndarray:
  """Of at most five seconds of a file."""
  file = tar.extractfile(name)
  assert file is not None
  x, rate = soundfile.read(io.BytesIO(file.read()), dtype="float32")
  x = soxr.resample(x, rate, RATE)[: 5 * RATE] if rate != RATE else x[: 5 * RATE]
  # One shape, so one program; what was added is cut off again.
  padded = np.pad(x, (0, 5 * RATE - len(x)))
  mel = np.asarray(_log_mel(padded[None]))[0, : max(0, 1 + (len(x) - 400) // 160)]
  return (mel - MEAN) / SPREAD


_log_mel = jax.jit(lambda x: kaldi_log_mel(x, MAE.bands)[0])


def halves(clip: np.ndarray) -> np.ndarray:
  """A clip's first and last windows, [2, frames, bands]; silence follows a short one."""
  fill = np.full((max(0, MAE.frames - len(clip)), MAE.bands), clip.min(), np.float32)
  clip = np.concatenate([clip, fill])
  return np.stack([clip[: MAE.frames], clip[-MAE.frames :]])


def crops(train: list[np.ndarray], steps: int, seed: int):
  """Batches [B, frames, bands], the same for every arm of a seed."""
  rng = np.random.default_rng(seed)
  for _ in range(steps):
    chosen = [train[i] for i in rng.integers(len(train), size=BATCH)]
    starts = [rng.integers(max(1, len(clip) - MAE.frames + 1)) for clip in chosen]
    pairs = zip(chosen, starts, strict=True)
    yield np.stack([halves(clip[s : s + MAE.frames])[0] for clip, s in pairs])


class Masked(nn.Module):
  """The encoder, and the predictor that it learns by."""

  def setup(self):
    self.encoder = MaeEncoder(MAE)
    self.predictor = MaePredictor(MAE, width=64, num_heads=4, num_layers=2)

  def __call__(self, x, key):
    return masked_error(self.encoder, self.predictor, x, key, 0.25)

  def features(self, x):
    return self.encoder(x)


def optimizer(peak: float, steps: int) -> optax.GradientTransformation:
  rate = optax.warmup_cosine_decay_schedule(0, peak, max(1, steps // 20), steps)
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.95))


def trained_mae(train: list[np.ndarray], steps: int, seed: int):
  """`(parameters, mean error of the last 100 steps)`."""
  init, step = _mae_programs(steps)
  state, errors = init(jax.random.key(seed)), []
  for i, x in enumerate(crops(train, steps, seed)):
    *state, error = step(*state, x, jax.random.fold_in(jax.random.key(seed), i))
    errors.append(error)
  return state[0], float(np.mean(errors[-100:]))


@functools.cache
def _mae_programs(steps: int):
  adam, module = optimizer(1e-3, steps), Masked()

  def init(key):
    x = jnp.zeros((1, MAE.frames, MAE.bands))
    params = module.init(key, x, key)["params"]
    # The encoder's final norm is met in training; its features need no other parameter.
    return params, adam.init(params)

  def step(params, state, x, key):
    error, gradients = jax.value_and_grad(lambda p: module.apply({"params": p}, x, key))(params)
    updates, state = adam.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, error

  quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  return jax.jit(init, compiler_options=quick), jax.jit(step, donate_argnums=(0, 1))


@jax.jit
def _features(params, x):
  return Masked().apply({"params": params}, x, method="features")


def features_of(mae, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Features [clips, 2, N, D], and which patches are not all of one value, [clips, 2, N]."""
  found = [np.asarray(_features(mae, part)) for part in windows]
  size = MAE.patch
  grid = windows.reshape(*windows.shape[:2], MAE.grid[0], size, MAE.grid[1], size)
  sounds = np.ptp(grid, axis=(3, 5)).reshape(*windows.shape[:2], -1) > 1e-6
  return np.stack(found), sounds


def centroids_of(mae, train: list[np.ndarray], seed: int) -> np.ndarray:
  """k-means of the features of crops."""
  rows = [np.asarray(_features(mae, x)) for x in crops(train, 40, 1000 + seed)]
  rows = np.concatenate(rows).reshape(-1, MAE.width)
  return np.asarray(_kmeans(jax.random.key(seed), rows)[0])


_kmeans = jax.jit(functools.partial(F.kmeans, size=ENTRIES, iterations=20))


class Arm(nn.Module):
  """From features to a spectrogram by way of tokens.

  Attributes:
    semantic, acoustic: which tokens there are.
  """

  semantic: bool
  acoustic: bool

  def setup(self):
    self.lstm = BidirectionalLSTM(MAE.width, 1)
    self.project = nn.Dense(MAE.width, use_bias=False)
    self.quantizer = VQ(ENTRIES, MAE.width)
    widths = (128,) * 5 + (MAE.patch**2,)
    self.layers = [nn.Conv(width, (3, 3), padding="SAME") for width in widths]

  def rest(self, features, entries):
    """What acoustic tokens code."""
    pair = jnp.concatenate([features, self.semantic * entries], axis=-1)
    return self.project(self.lstm(pair)[0])

  def __call__(self, features, entries):
    """`(patches [B, N, size^2], what the bottleneck found)`."""
    found = self.quantizer(self.rest(features, entries))
    pair = [self.acoustic * found.z, self.semantic * entries]
    y = jnp.concatenate(pair, axis=-1).reshape(-1, *MAE.grid, 2 * MAE.width)
    for i, layer in enumerate(self.layers):
      y = layer(y) if i == 0 else layer(nn.gelu(y))
    return y.reshape(len(features), -1, MAE.patch**2), found


def trained_arm(mae, centroids, train, arm: tuple[bool, bool], steps: int, seed: int):
  """Parameters, and the codebook's running averages."""
  init, begin, step = _arm_programs(arm, steps)
  params, state = init(jax.random.key(100 + seed))
  batches = crops(train, steps + 10, 2000 + seed)
  first = np.concatenate([next(batches) for _ in range(10)])
  params, ema = begin(params, _features(mae, first), centroids, jax.random.key(seed))
  for i, x in enumerate(batches):
    key, restarts = jax.random.fold_in(jax.random.key(seed), i), i % 20 == 0 and i < 0.8 * steps
    given = _features(mae, x), centroids, x, key, restarts
    params, state, ema = step(params, state, ema, *given)
  return params


@functools.cache
def _arm_programs(arm: tuple[bool, bool], steps: int):
  adam, module = optimizer(2e-3, steps), Arm(*arm)

  def init(key):
    x = jnp.zeros((1, math.prod(MAE.grid), MAE.width))
    params = module.init(key, x, x)["params"]
    return params, adam.init(params)

  def begin(params, features, centroids, key):
    entries = centroids[nearest_code(features, centroids)]
    rest = module.apply({"params": params}, features, entries, method="rest")
    book, ema = F.kmeans(key, rest.reshape(-1, MAE.width), ENTRIES)
    # Counts as of one batch: the averages go on from there.
    ema = jax.tree.map(lambda x: x[None] / 10, ema)
    return params | {"quantizer": {"codebooks": book[None]}}, ema

  def step(params, state, ema, features, centroids, x, key, restarts):
    entries = centroids[nearest_code(features, centroids)]

    def loss(params):
      y, found = module.apply({"params": params}, features, entries)
      return jnp.abs(y - _patches(x)).mean() + arm[1] * found.loss, found

    gradients, found = jax.grad(loss, has_aux=True)(params)
    updates, state = adam.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    book, ema = F.ema_update(ema, found.statistics, 0.9)
    rest = module.apply({"params": params}, features, entries, method="rest")
    threshold = 0.1 * ema.counts.mean(axis=-1, keepdims=True)
    rows = rest.reshape(1, -1, MAE.width)
    restarted = F.restart_dead_codes(key, book, ema, rows, threshold)
    book, ema = jax.tree.map(lambda a, b: jnp.where(restarts, a, b), restarted, (book, ema))
    return params | {"quantizer": {"codebooks": book}}, state, ema

  quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  init = jax.jit(init, compiler_options=quick)
  return init, jax.jit(begin), jax.jit(step, donate_argnums=(0, 1, 2))


def _patches(x):
  batch, (times, bands), size = len(x), MAE.grid, MAE.patch
  x = x.reshape(batch, times, size, bands, size).transpose(0, 1, 3, 2, 4)
  return x.reshape(batch, times * bands, -1)


@functools.partial(jax.jit, static_argnums=0)
def _coded(arm, params, features, centroids):
  """Semantic and acoustic tokens, their entries, and patches."""
  module, tokens = Arm(*arm), nearest_code(features, centroids)
  entries = centroids[tokens]
  y, found = module.apply({"params": params}, features, entries)
  return tokens, found.codes[..., 0], entries, found.z, y


def mel_error(params, mae, centroids, windows: np.ndarray, arm: tuple[bool, bool]) -> float:
  errors = []
  for part in windows:
    *_, y = _coded(arm, params, _features(mae, part), centroids)
    errors.append(np.abs(np.asarray(y - _patches(part))).mean())
  return SPREAD * float(np.mean(errors))


def told(params, centroids, features, sounds, labels, folds, arm) -> list[float]:
  """Accuracies from mean entries and from histograms, and the share of entries in use."""
  each = [_coded(arm, params, part, centroids)[:4] for part in features]
  semantic, acoustic, entries, z = (np.stack(column) for column in zip(*each, strict=True))
  parts, counts = [], []
  for has, codes, rows in zip(arm, (semantic, acoustic), (entries, z), strict=True):
    if has:
      parts.append(mean_rows(rows, sounds))
      ones = [np.bincount(c[s], minlength=ENTRIES) for c, s in zip(codes, sounds, strict=True)]
      counts.append(np.sqrt(np.array(ones) / np.maximum(1, np.sum(ones, axis=1))[:, None]))
  used = [np.mean(np.sum(count, axis=0) > 0) for count in counts]
  mean, histogram = np.concatenate(parts, axis=1), np.concatenate(counts, axis=1)
  return [probe(mean, labels, folds), probe(histogram, labels, folds), float(np.mean(used))]


def mean_rows(rows: np.ndarray, sounds: np.ndarray) -> np.ndarray:
  """[clips, D], over the patches that are not silent."""
  weight = sounds[..., None].astype(np.float32)
  return (rows * weight).sum(axis=(1, 2)) / np.maximum(weight.sum(axis=(1, 2)), 1)


def probe(x: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> float:
  """Accuracy on folds 4 and 5 of a linear classifier of the others."""
  known = folds <= 3
  x = (x - x[known].mean(axis=0)) / (x[known].std(axis=0) + 1e-6)
  weights, bias = _probe(x[known].astype(np.float32), labels[known])
  found = np.argmax(x[~known] @ np.asarray(weights) + np.asarray(bias), axis=1)
  return float(np.mean(found == labels[~known]))


@jax.jit
def _probe(x, labels):
  adam = optax.adam(0.01)
  params = jnp.zeros((x.shape[1], 10)), jnp.zeros(10)

  def loss(params):
    weights, bias = params
    each = optax.softmax_cross_entropy_with_integer_labels(x @ weights + bias, labels)
    return each.mean() + 0.01 * jnp.sum(weights**2)

  def step(carry, _):
    params, state = carry
    updates, state = adam.update(jax.grad(loss)(params), state, params)
    return (optax.apply_updates(params, updates), state), None

  (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), None, length=500)
  return params


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
