"""What small classifiers still see in decoded pictures and hear in decoded sounds.

Command: python -m benchmarks.systems.mpq --data DATA [--only pictures|sounds] [--out DIR]

DATA holds `small_images/cifar10_jpeg.npz` and `sounds/`. A classifier has features of patches
learnt by k-means and a ridge regression on their averages over quarters (Coates et al., 2011):
pictures of CIFAR-10, 20,000 to train, 2,560 to test; spectra of ESC-10, folds 1 to 3 to train, 4
and 5 to test, five seconds each. Pictures go through codecs sixteen by sixteen in one file of 512 x
512, so that no format's header counts for more than it does in a photograph. The deep distance is
that of features of a network that shares nothing with the one that classifies but the data; PSNR is
that of the pictures, or of the waves. "Trained on decoded" is the classifier fitted to training
data that went through the same codec, a quarter of them. Intervals are of 95 %, by drawing items.

With --out DIR the classifiers stay there, and the test pictures as files, and

    MPQ=DIR jaxcodec evaluate DIR/pictures --perception benchmarks.systems.mpq:picture_kind

names them from what each codec leaves.
"""

import argparse
import functools
import io
import math
import os
import pathlib
import tarfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import soundfile
import soxr
from PIL import Image

from configs.lmuformer import ESC10
from jaxcodec import evaluate, evaluate_pictures, perception, picture_baselines, terminal
from jaxcodec.audio.classifier import SAMPLE_RATE, spectra
from jaxcodec.baselines import Coded, System
from jaxcodec.data.labelled import read_table
from jaxcodec.hub.load import load
from jaxcodec.perception import Item

CIFAR10 = (
  "airplane",
  "automobile",
  "bird",
  "cat",
  "deer",
  "dog",
  "frog",
  "horse",
  "ship",
  "truck",
)
SIDE, ACROSS = 32, 16  # Pixels of a picture, pictures across a file.
SECONDS, BANDS = 5, 64
PICTURES = (("JPEG", {"optimize": True}, (5, 10, 30, 75)), ("WEBP", {"method": 6}, (0, 20, 60)))
QUALITIES = (0, 25, 50, 75, 100)
RATES = (1000, 3000, 6000)  # bit/s
# What libsndfile makes of its levels of compression at 16 kHz, in kbit/s.
SOUNDS = (
  ("mp3", "MP3", "MPEG_LAYER_III", {28: 0.5, 23: 0.8, 19: 0.99}),
  ("opus", "OGG", "OPUS", {24: 0.928, 12: 0.976, 6: 1.0}),
)


class Classifier(NamedTuple):
  """Patches, what whitens them, and a linear map of their averages.

  Attributes:
    mean, whiten: [P], [P, P] of patches of `size` x `size` x C.
    centres: [K, P].
    scale: mean and deviation of the features, [2, 4 K].
    weights: [4 K + 1, classes].
    size, stride: of patches.
  """

  mean: np.ndarray
  whiten: np.ndarray
  centres: np.ndarray
  scale: np.ndarray
  weights: np.ndarray
  size: int
  stride: int


@functools.partial(jax.jit, static_argnames=("size", "stride"))
def features(x, mean, whiten, centres, *, size: int, stride: int):
  """[B, 4 K]: how near patches of x [B, H, W, C] are to centres, averaged over four quarters."""
  patches = _patches(x, size, stride)
  flat = _normal(patches.reshape(*patches.shape[:3], -1))
  flat = (flat - mean) @ whiten
  square = (flat**2).sum(-1, keepdims=True) + (centres**2).sum(-1) - 2 * flat @ centres.T
  distance = jnp.sqrt(jnp.maximum(square, 0))
  near = jnp.maximum(distance.mean(-1, keepdims=True) - distance, 0)
  rows, columns = near.shape[1] // 2, near.shape[2] // 2
  parts = [near[:, :rows, :columns], near[:, rows:, :columns]]
  parts += [near[:, :rows, columns:], near[:, rows:, columns:]]
  return jnp.concatenate([part.mean(axis=(1, 2)) for part in parts], axis=-1)


def _patches(x, size: int, stride: int):
  """[B, h, w, size, size, C]."""
  rows = jnp.arange(0, x.shape[1] - size + 1, stride)[:, None] + jnp.arange(size)
  columns = jnp.arange(0, x.shape[2] - size + 1, stride)[:, None] + jnp.arange(size)
  return x[:, rows[:, None, :, None], columns[None, :, None, :]]


def _normal(flat):
  flat = flat - flat.mean(-1, keepdims=True)
  return flat / jnp.sqrt(flat.var(-1, keepdims=True) + 1e-3)


def learn(x, labels, size: int, stride: int, count: int, ridge: float, seed: int) -> Classifier:
  """A classifier of x [N, H, W, C] with `count` centres."""
  rng = np.random.default_rng(seed)
  drawn = x[rng.integers(len(x), size=min(4000, 8 * len(x)))]
  patches = np.asarray(_patches(drawn, size, size)).reshape(-1, size * size * x.shape[-1])
  patches = np.asarray(_normal(patches[rng.permutation(len(patches))[:60_000]]))
  mean = patches.mean(axis=0)
  values, vectors = np.linalg.eigh(np.cov((patches - mean).T))
  whiten = (vectors / np.sqrt(values + 0.1)) @ vectors.T
  white = ((patches - mean) @ whiten).astype(np.float32)
  centres = white[:count]
  for _ in range(12):
    near = np.argmax(white @ centres.T - 0.5 * (centres**2).sum(1), axis=1)
    sums = np.stack([np.bincount(near, white[:, p], count) for p in range(white.shape[1])], axis=1)
    counts = np.bincount(near, minlength=count)[:, None]
    centres = np.where(
      counts, sums / np.maximum(counts, 1), white[rng.integers(len(white), size=count)]
    )
    centres = centres.astype(np.float32)
  arrays = mean.astype(np.float32), whiten.astype(np.float32), centres
  empty = Classifier(*arrays, np.zeros((2, 4 * count)), np.zeros(0), size, stride)
  return refit(empty, x, labels, ridge)


def refit(found: Classifier, x: np.ndarray, labels: np.ndarray, ridge: float) -> Classifier:
  """The same features, another regression on them."""
  y = all_features(found, x)
  scale = np.stack([y.mean(axis=0), y.std(axis=0) + 1e-3])
  y = _extended((y - scale[0]) / scale[1])
  targets = 2.0 * np.eye(labels.max() + 1)[labels] - 1
  penalty = ridge * len(y) * np.eye(y.shape[1])
  return found._replace(scale=scale, weights=np.linalg.solve(y.T @ y + penalty, y.T @ targets))


def all_features(found: Classifier, x: np.ndarray, batch: int = 64) -> np.ndarray:
  """[N, 4 K], a batch at a time."""
  arrays = found.mean, found.whiten, found.centres
  parts, batch = [], min(batch, len(x))
  for start in range(0, len(x), batch):
    part = x[start : start + batch]
    padded = np.pad(part, ((0, batch - len(part)), (0, 0), (0, 0), (0, 0)))
    parts.append(
      np.asarray(features(padded, *arrays, size=found.size, stride=found.stride))[: len(part)]
    )
  return np.concatenate(parts).astype(np.float64)


def classes(found: Classifier, x: np.ndarray) -> np.ndarray:
  """The likeliest class of each of x [N, H, W, C]."""
  y = (all_features(found, x) - found.scale[0]) / found.scale[1]
  return np.argmax(_extended(y) @ found.weights, axis=1)


def _extended(y: np.ndarray) -> np.ndarray:
  return np.concatenate([y, np.ones((len(y), 1))], axis=1)


def mosaic(pictures: np.ndarray) -> np.ndarray:
  """[512, 512, 3] of 256 pictures."""
  tiles = pictures.reshape(ACROSS, ACROSS, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4)
  return tiles.reshape(ACROSS * SIDE, ACROSS * SIDE, 3)


def tiles_of(whole: np.ndarray) -> np.ndarray:
  """`mosaic` undone, as float32 about zero."""
  tiles = whole.reshape(ACROSS, SIDE, ACROSS, SIDE, 3).transpose(0, 2, 1, 3, 4)
  return seen(tiles.reshape(-1, SIDE, SIDE, 3))


def seen(pictures: np.ndarray) -> np.ndarray:
  return pictures.astype(np.float32) / 127.5 - 1


def cifar(data: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
  """Pictures uint8 [N, 32, 32, 3] in an order drawn once, and their labels."""
  stored = np.load(data / "small_images" / "cifar10_jpeg.npz")
  places, blob = stored[f"{split}_offsets"], stored[f"{split}_jpeg"].tobytes()
  labels = next(stored[name] for name in stored if name.startswith(split) and "label" in name)
  order = np.random.default_rng(0).permutation(len(labels))
  pictures = [np.asarray(Image.open(io.BytesIO(blob[places[i] : places[i + 1]]))) for i in order]
  return np.stack(pictures), np.asarray(labels)[order].astype(np.int64)


def esc10(data: pathlib.Path, split: str, rate: int) -> tuple[list[np.ndarray], np.ndarray]:
  """Waves [T, 1] at a rate, five seconds each, and their labels."""
  labels = read_table(str(data / "sounds" / "esc10.csv"), split, ESC10)
  waves, found = [], []
  with tarfile.open(data / "sounds" / "esc10.tar") as archive:
    for member in sorted(archive.getmembers(), key=lambda member: member.name):
      name = pathlib.PurePath(member.name).name
      if name in labels:
        file = archive.extractfile(member)
        assert file is not None
        x, own = soundfile.read(io.BytesIO(file.read()), dtype="float32", always_2d=True)
        x = soxr.resample(x.mean(axis=1), own, rate)[: SECONDS * rate]
        waves.append(np.pad(x, (0, SECONDS * rate - len(x)))[:, None])
        found.append(labels[name])
  return waves, np.array(found)


@jax.jit
def _spectra(x):
  return spectra(x, BANDS)


def heard(waves: Sequence[np.ndarray], rate: int) -> np.ndarray:
  """Spectra [N, frames, bands, 1] of waves of five seconds."""
  found = []
  for wave in waves:
    x = wave[:, 0] if rate == SAMPLE_RATE else soxr.resample(wave[:, 0], rate, SAMPLE_RATE)
    found.append(np.asarray(_spectra(x[None, : SECONDS * SAMPLE_RATE]))[0])
  return np.stack(found)[..., None]


def sound_file(kind: str, subtype: str, level: float, wave: np.ndarray) -> Coded:
  """A wave through a format of libsndfile."""
  file, start = io.BytesIO(), time.perf_counter()
  soundfile.write(file, wave, SAMPLE_RATE, format=kind, subtype=subtype, compression_level=level)
  middle = time.perf_counter()
  file.seek(0)
  back, _ = soundfile.read(file, dtype="float32", always_2d=True)
  back = np.pad(back[: len(wave)], ((0, max(0, len(wave) - len(back))), (0, 0)))
  size = len(file.getvalue())
  return Coded(back, size, middle - start, time.perf_counter() - middle)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
  peak = 255.0 if a.dtype == np.uint8 else 1.0
  error = np.square(a.astype(np.float64) - b).mean()
  return 10 * math.log10(peak**2 / max(error, 1e-12))


def report(found: perception.Perception, unit: str, again: dict[str, float]) -> None:
  """Prints a table of Markdown, and which measure follows the score."""
  print(f"| codec | {unit} | accuracy | 95 % | PSNR, dB | deep distance | trained on decoded |")
  print("|---|---:|---:|---:|---:|---:|---:|")
  for point in (found.original, *found.points):
    name = point.system if point.setting is None else f"{point.system}@{point.setting:g}"
    values = [f"{point.measures[each]:.2f}" if point.measures else "" for each in ("psnr", "deep")]
    after = f"{again[name]:.3f}" if name in again else ""
    rate = f"{point.rate:.3f}" if point.rate else ""
    interval = f"{point.low:.3f} to {point.high:.3f}"
    print(f"| {name} | {rate} | {point.score:.3f} | {interval} | {' | '.join(values)} | {after} |")
  for measure in ("psnr", "deep"):
    print(f"Spearman of {measure} and accuracy over all points: {found.correlation(measure):+.2f}")
  for system in dict.fromkeys(point.system for point in found.points):
    print(f"{system}: 95 % of the original's accuracy at {found.rate_for(system, 0.95):.3f} {unit}")
  print(flush=True)


def pictures(data: pathlib.Path, out: pathlib.Path | None) -> None:
  x, labels = cifar(data, "train")
  test, truth = cifar(data, "test")
  ours, other = (learn(seen(x), labels, 6, 2, 300, 0.02, seed) for seed in (0, 1))
  if out:
    _keep(ours, out / "pictures.npz")
    for number, (picture, label) in enumerate(zip(test[:200], truth[:200], strict=True)):
      folder = out / "pictures" / CIFAR10[label]
      folder.mkdir(parents=True, exist_ok=True)
      Image.fromarray(picture).save(folder / f"{number}.png")
  items = [
    Item(f"pictures from {at}", mosaic(test[at : at + 256]), truth[at : at + 256])
    for at in range(0, 2560, 256)
  ]
  systems = [
    picture_baselines.PictureSystem(
      kind.lower(), quality, functools.partial(picture_baselines.code, kind, quality, options)
    )
    for kind, options, qualities in PICTURES
    for quality in qualities
  ]
  systems += evaluate_pictures.codec_systems("photo", load("photo"), QUALITIES)

  def score(whole: np.ndarray, labels: np.ndarray) -> float:
    return float((classes(ours, tiles_of(whole)) == labels).mean())

  def deep(a: np.ndarray, b: np.ndarray) -> float:
    return _distance(other, tiles_of(a), tiles_of(b))

  found = perception.run(systems, items, score, {"psnr": psnr, "deep": deep})
  again = {}
  few = [mosaic(x[at : at + 256]) for at in range(0, 5120, 256)]
  for system in [None, *(each for each in systems if each.setting in (0, 5))]:
    decoded = [whole if system is None else system.code(whole).pixels for whole in few]
    anew = refit(ours, np.concatenate([tiles_of(whole) for whole in decoded]), labels[:5120], 0.02)
    whole = [item.signal if system is None else system.code(item.signal).pixels for item in items]
    right = [
      classes(anew, tiles_of(each)) == item.truth for each, item in zip(whole, items, strict=True)
    ]
    name = perception.ORIGINAL if system is None else f"{system.name}@{system.setting:g}"
    again[name] = float(np.mean(right))
  print("## CIFAR-10\n")
  report(found, "bits/pixel", again)


def sounds(data: pathlib.Path, out: pathlib.Path | None) -> None:
  waves, labels = esc10(data, "train", SAMPLE_RATE)
  x = heard(waves, SAMPLE_RATE)
  ours, other = (learn(x, labels, 8, 4, 200, 1.0, seed) for seed in (0, 1))
  if out:
    _keep(ours, out / "sounds.npz")
  codec = terminal.load(terminal.SOUND_CODEC)
  systems = [
    system for rate in RATES for system in evaluate.codec_systems(terminal.SOUND_CODEC, codec, rate)
  ]
  for name, kind, subtype, levels in SOUNDS:
    for kbps, level in levels.items():
      code = functools.partial(sound_file, kind, subtype, level)
      systems.append(System(name, 1000 * kbps, SAMPLE_RATE, 1, code))
  folds = [esc10(data, split, SAMPLE_RATE) for split in ("val", "test")]
  test = [wave for waves, _ in folds for wave in waves]
  truth = np.concatenate([labels for _, labels in folds])
  items = [
    Item(str(n), wave, label) for n, (wave, label) in enumerate(zip(test, truth, strict=True))
  ]

  def score(wave: np.ndarray, label: int) -> float:
    return float(classes(ours, heard([wave], SAMPLE_RATE))[0] == label)

  def deep(a: np.ndarray, b: np.ndarray) -> float:
    return _distance(other, heard([a], SAMPLE_RATE), heard([b], SAMPLE_RATE))

  found = perception.run(systems, items, score, {"psnr": psnr, "deep": deep})
  print("## ESC-10\n")
  report(found, "bits/sample", {})


def _distance(other: Classifier, a: np.ndarray, b: np.ndarray) -> float:
  """Between features in their deviations, the root of the mean of squares."""
  x, y = ((all_features(other, part) - other.scale[0]) / other.scale[1] for part in (a, b))
  return float(np.sqrt(np.square(x - y).mean()))


def _keep(found: Classifier, path: pathlib.Path) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez(path, **{name: np.asarray(value) for name, value in found._asdict().items()})


@functools.cache
def _kept(name: str) -> Classifier:
  stored: dict[str, Any] = dict(np.load(pathlib.Path(os.environ["MPQ"]) / name))
  return Classifier(**stored | {each: int(stored[each]) for each in ("size", "stride")})


def picture_kind(pixels: np.ndarray) -> str:
  """The class of a picture of 32 x 32, by the classifier in the folder that MPQ names."""
  return CIFAR10[int(classes(_kept("pictures.npz"), seen(pixels)[None])[0])]


def sound_kind(wave: np.ndarray, sample_rate: int) -> str:
  """The class of a sound of five seconds."""
  return ESC10[int(classes(_kept("sounds.npz"), heard([wave], sample_rate))[0])]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--only", choices=("pictures", "sounds"))
  parser.add_argument("--out", type=pathlib.Path)
  options = parser.parse_args()
  terminal.look_for_no_absent_accelerator()
  parts: dict[str, Callable[[pathlib.Path, pathlib.Path | None], None]]
  parts = {"pictures": pictures, "sounds": sounds}
  for name, part in parts.items():
    if options.only in (None, name):
      part(options.data, options.out)


if __name__ == "__main__":
  main()
