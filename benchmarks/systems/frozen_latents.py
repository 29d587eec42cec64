"""The quantizers of HiFi-Codec, WavTokenizer and Language-Codec on one trained codec's latents.

Command: python -m benchmarks.systems.frozen_latents --data SPEECH_DIR

SPEECH_DIR holds `speech_train.tar` and `speech_test.tar`. Encoder and decoder are those of the
bundled `speech-16khz` and stand still; the quantizers are fitted by k-means, stage by stage, to the
latents of some minutes of training speech, others for each seed. So this compares quantizers at
equal data and networks, and says nothing of what a network learns around each. "Error" is the
energy that is left of the latents about their mean, "used" the share of entries that occur in the
test clips, "shared" what the first two codes of a frame say of each other, in bits; "alone" is the
share of the energy that the entries of one codebook take away by themselves. Means and standard
deviations over seeds.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import jaxcodec
from benchmarks.systems import short_runs
from jaxcodec import functional as F, metrics, terminal

# (groups of channels, bands of channels, stages of a group, entries) of each table's quantizers.
TABLES = {
  "HiFi-Codec: groups of residual stages": {
    "2 groups of 2": (2, 0, 2, 64),
    "residual, 4": (1, 0, 4, 64),
    "residual, 8": (1, 0, 8, 64),
  },
  "WavTokenizer: one codebook": {
    "1 of 1024": (1, 0, 1, 1024),
    "residual, 2 of 32": (1, 0, 2, 32),
  },
  "Language-Codec: masked channels": {
    "3 bands, then residual": (1, 3, 8, 64),
    "residual, 8": (1, 0, 8, 64),
  },
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--seeds", type=int, default=3)
  options = parser.parse_args()
  codec = jaxcodec.load("speech-16khz")
  config = short_runs.config_of(codec.module, num_steps=10, batch_size=16, seconds=2.0)
  clips = short_runs.held_out_clips(options.data)
  latents = jax.jit(lambda x: _apply(codec, x, "latents"))
  z = np.asarray(latents(clips))
  training = []
  for seed in range(options.seeds):
    batches = short_runs.crops(options.data, config, seed)
    training.append(
      np.concatenate([np.asarray(latents(x)).reshape(-1, z.shape[-1]) for x in batches])
    )
  print(f"{training[0].shape[0]} latents a seed, {options.seeds} seeds")
  for title, arms in TABLES.items():
    print(
      f"\n| {title} | bits | error | mel distance | used | perplexity | shared | 0, 1, 2 alone |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for name, (groups, bands, stages, size) in arms.items():
      runs = [
        run(codec, jax.random.key(seed), rows, z, clips, groups, bands, stages, size)
        for seed, rows in enumerate(training)
      ]
      bits = groups * stages * int(np.log2(size))
      cells = [
        short_runs.spread(column, digits)
        for column, digits in zip(zip(*runs, strict=True), (3, 3, 2, 1, 2, 2, 2, 2), strict=True)
      ]
      print(f"| {name} | {bits} | {' | '.join(cells[:5])} | {', '.join(cells[5:])} |", flush=True)


def _apply(codec, x, method: str):
  return codec.module.apply({"params": codec.params}, x, method=method)


def run(codec, key, rows, z, clips, groups: int, bands: int, stages: int, size: int):
  """Error, mel distance, use, perplexity, bits shared by the first two codes, and what each of the
  first three codebooks explains alone."""
  width = z.shape[-1] // groups
  masks = np.ones((stages, z.shape[-1]), np.float32)
  for band in range(bands):
    low, high = band * z.shape[-1] // bands, (band + 1) * z.shape[-1] // bands
    masks[band] = 0
    masks[band, low:high] = 1
  codes, parts = [], []
  for group, group_key in enumerate(jax.random.split(key, groups)):
    channels = slice(group * width, (group + 1) * width)
    found = _fitted(group_key, rows[:, channels], z[..., channels], masks[:, channels], size)
    codes.append(np.asarray(found[0]))
    parts.append(np.asarray(found[1]))
  # [stages, B, F, D], of all groups.
  entries = np.concatenate(parts, axis=-1)
  codes = np.stack(codes, axis=-1).reshape(*z.shape[:2], -1)
  centred = z - z.mean(axis=(0, 1))
  energy = np.sum(centred**2)
  error = np.sum((z - entries.sum(axis=0)) ** 2) / energy
  y = np.asarray(_signal(codec, jnp.asarray(entries.sum(axis=0))))
  pairs = zip(clips, y, strict=True)
  mel = np.mean([metrics.mel_distance(a[:, 0], b[: len(a), 0], short_runs.RATE) for a, b in pairs])
  used = np.mean([len(np.unique(codes[..., q])) / size for q in range(codes.shape[-1])])
  perplexity = short_runs.perplexity(codes).mean()
  shared = short_runs.shared_bits(codes[..., 0], codes[..., 1]) if codes.shape[-1] > 1 else 0.0
  alone = [entry - entry.mean(axis=(0, 1)) for entry in entries[:3]]
  explained = [1 - np.sum((centred - entry) ** 2) / energy for entry in alone]
  explained += [0.0] * (3 - len(explained))
  return error, mel, used, perplexity, shared, *explained


@functools.partial(jax.jit, static_argnames="size")
def _fitted(key, rows, z, masks, size: int):
  """Codes [B, F, Q] of z, and what each stage adds, [Q, B, F, D]."""
  codebooks, _ = F.residual_kmeans(key, rows, len(masks), size, 20, bands=masks)
  codes = F.residual_encode(z, codebooks, masks)
  entries = jax.vmap(F.lookup, in_axes=(-1, 0))(codes, codebooks)
  return codes, entries


@jax.jit
def _signal(codec, z):
  return _apply(codec, z, "signal")


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
