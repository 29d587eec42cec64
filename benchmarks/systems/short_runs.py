"""What the experiments on neural sound codecs share: speech, short trainings, figures of codes.

Runs of a seed see the same crops in the same order. One that is compiled serves every seed.
"""

import dataclasses
import functools
import io
import pathlib
import tarfile
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import soundfile

from jaxcodec import metrics
from jaxcodec.data import pipeline
from jaxcodec.data.sound import Sound
from jaxcodec.training import codecs
from jaxcodec.training.config import LearningRate, Losses, Muon, Quantization, Train
from jaxcodec.training.losses import MelScales
from jaxcodec.training.state import TrainState, init_state
from jaxcodec.training.step import train_step

RATE = 16_000
_MEL = MelScales(scales=((256, 32), (1024, 80)), floor=1e-4, log_l1=2.3, linear_l1=1.0)


def config_of(codec, *, num_steps: int, batch_size: int = 8, seconds: float = 0.5) -> Train:
  """A short run: Muon, a mel distance and the wave's relative error, no discriminator."""
  return Train(
    name="arm",
    codec=codec,
    data=Sound(segment_seconds=seconds),
    batch_size=batch_size,
    num_steps=num_steps,
    optimizer=Muon(rate=LearningRate(peak=3e-3, warmup_steps=20, cosine=True), clip_norm=5.0),
    losses=Losses(wave=1.0, mel=3.3, mel_scales=_MEL, commitment=0.25),
    quantization=Quantization(
      start_step=num_steps // 5, kmeans_batches=8, dead_share=0.1, restart_every=20
    ),
    input_gain=10.0,
  )


def crops(folder: pathlib.Path, config: Train, seed: int) -> list[np.ndarray]:
  """The batches of a run on `speech_train.tar`."""
  data = pipeline.dataset(
    dataclasses.replace(config.data, sources=(str(folder / "speech_train.tar"),)),
    config.codec,
    batch_size=config.batch_size,
    num_steps=config.num_steps,
    seed=seed,
    process=0,
    processes=1,
  )
  return [data[step] for step in range(config.num_steps)]


def held_out_clips(folder: pathlib.Path, count: int = 16, seconds: int = 3) -> np.ndarray:
  """The first seconds of lossless clips that have them, of `speech_test.tar`: [count, time, 1]."""
  found = []
  with tarfile.open(folder / "speech_test.tar") as tar:
    for member in sorted(tar.getmembers(), key=lambda member: member.name):
      if member.name.endswith(".flac") and len(found) < count:
        file = tar.extractfile(member)
        assert file is not None
        wave, rate = soundfile.read(io.BytesIO(file.read()), dtype="float32")
        assert rate == RATE
        if len(wave) >= seconds * RATE:
          found.append(wave[: seconds * RATE])
  return np.stack(found)[..., None]


@functools.cache
def _compiled(config: Train):
  # It runs once; on a CPU, optimizing its many draws takes far longer than they do.
  quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  init = jax.jit(functools.partial(init_state, config=config), compiler_options=quick)
  step = jax.jit(functools.partial(train_step, config=config), donate_argnums=0)
  return init, step


def train(config: Train, batches: Sequence, seed: int) -> TrainState:
  """The state after a run.

  Raises:
    RuntimeError: if a step was not finite.
  """
  init, step = _compiled(config)
  key, place = jax.random.key(seed), functools.partial(jax.tree.map, jnp.asarray)
  state = init(key)
  for i, batch in enumerate(batches):
    state = codecs.with_kmeans(state, key, batches, i, place, config)
    state, _ = step(state, batch, key)
  if int(state.skipped):
    raise RuntimeError(f"{int(state.skipped)} steps were not finite")
  return state


class Found(NamedTuple):
  """What a trained codec makes of the test clips.

  Attributes:
    codes: int32 [B, F, Q].
    latents: [B, F, D], what the bottleneck was given.
    mel: mean over clips of `metrics.mel_distance`.
    snr: mean over clips of `metrics.si_sdr`, in dB.
  """

  codes: np.ndarray
  latents: np.ndarray
  mel: float
  snr: float


@functools.partial(jax.jit, static_argnums=(0, 3))
def _coded(module, params, x, count: int):
  variables = {"params": params}
  z = module.apply(variables, x, method="latents")
  codes = module.apply(variables, x, count, method="encode")
  return z, codes, module.apply(variables, codes, method="decode")


def evaluate(module, state: TrainState, clips: np.ndarray, count: int | None = None) -> Found:
  """Codes the clips with the first `count` codebooks, all if None."""
  count = len(module.codebook_sizes) if count is None else count
  z, codes, y = map(np.asarray, _coded(module, state.average, clips, count))
  pairs = [(a[:, 0], b[: len(a), 0]) for a, b in zip(clips, y, strict=True)]
  mel = np.mean([metrics.mel_distance(a, b, RATE) for a, b in pairs])
  snr = np.mean([metrics.si_sdr(a, b) for a, b in pairs])
  return Found(codes, z, float(mel), float(snr))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _codes(module, params, x, count: int | None):
  return module.apply({"params": params}, x, count, method="encode")


def coded(module, state: TrainState, clips: np.ndarray, count: int | None = None) -> np.ndarray:
  """Codes [B, F, Q] of many clips by the first `count` codebooks, all if None."""
  parts = [clips[i : i + 8] for i in range(0, len(clips), 8)]
  return np.concatenate([np.asarray(_codes(module, state.average, x, count)) for x in parts])


def read_clips(folder: pathlib.Path, codec) -> tuple[np.ndarray, np.ndarray]:
  """Clips of 3 s [N, time, 1] that language models learn from, and those they are asked about."""
  config = config_of(codec, num_steps=40, seconds=3.0)
  return np.concatenate(crops(folder, config, 0)), held_out_clips(folder, count=64)


def perplexity(codes: np.ndarray) -> np.ndarray:
  """Of each codebook, [Q]: as many entries as would be as uncertain if used alike."""
  return np.exp([_entropy(codes[..., q].ravel()) for q in range(codes.shape[-1])])


def shared_bits(a: np.ndarray, b: np.ndarray) -> float:
  """Bits that two codes of a frame say of each other, counted; too many where there are few."""
  pair = a.ravel().astype(np.int64) * (int(b.max()) + 1) + b.ravel()
  return float((_entropy(a.ravel()) + _entropy(b.ravel()) - _entropy(pair)) / np.log(2))


def adaptive_bits(codes: np.ndarray, size: int) -> float:
  """Bits a frame of codes [B, F, Q] by counts so far, those of a code given the one before it."""
  rows, total = codes.reshape(-1, codes.shape[-1]), 0.0
  for q in range(rows.shape[1]):
    counts = np.full((size, size), 1 / size)
    before = rows[:, q - 1] if q else np.zeros(len(rows), int)
    for context, code in zip(before, rows[:, q], strict=True):
      total -= np.log2(counts[context, code] / counts[context].sum())
      counts[context, code] += 1
  return float(total / len(rows))


def _entropy(codes: np.ndarray) -> float:
  counts = np.unique(codes, return_counts=True)[1]
  share = counts / counts.sum()
  return float(-np.sum(share * np.log(share)))


def spread(values: Sequence[float], digits: int = 3) -> str:
  """Mean and standard deviation over seeds."""
  return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def print_table(columns: Sequence[str], rows: dict[str, list[list[float]]]) -> None:
  """A row for each name, of what each seed found; the names' column is the first."""
  print(f"| {' | '.join(columns)} |")
  print("|---" + "|---:" * (len(columns) - 1) + "|")
  for name, values in rows.items():
    print(f"| {name} | {' | '.join(spread(column) for column in zip(*values, strict=True))} |")


def with_one(x: np.ndarray) -> np.ndarray:
  """[..., D] with a constant feature behind: [..., D + 1]."""
  return np.concatenate([x, np.ones((*x.shape[:-1], 1), x.dtype)], axis=-1)


def linear_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """[D, E] that takes rows x [N, D] to y [N, E] by least squares, held back a little."""
  return np.linalg.solve(x.T @ x + 1e-3 * len(x) * np.eye(x.shape[1]), x.T @ y)


def num_parameters(state: TrainState) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(state.params))
