"""Language models over the codes of `speech-16khz` at 2 kbit/s: three patterns at equal steps.

Command: python -m benchmarks.systems.code_lm --data SPEECH_DIR [--codes FILE] [--patterns flat]
  or, for the speed of `configs/code_lm_speech.py` with weights as drawn: --speed

SPEECH_DIR holds `speech_train.tar` and `speech_test.tar`, whose speakers are others. Every model
has the same weights at first, batches and number of steps. Bits a code are means over the codes of
the test speech in windows of three seconds, each foretold from its own start. Beside them: the
codes by themselves, and the learned prior that files use, on the same windows. Frames a second are
those of one prompt that is continued, on this machine.
"""

import argparse
import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import code_lm_speech
from jaxcodec import terminal
from jaxcodec.audio.code_lm import PATTERNS, CodeLm, CodeLmConfig, sample
from jaxcodec.codec import Codec
from jaxcodec.data.codes import Codes
from jaxcodec.entropy import prior_model
from jaxcodec.hub.load import load_sound
from jaxcodec.training import sequences
from jaxcodec.training.config import Adam, LearningRate
from jaxcodec.training.sequences import TrainCodes
from launch.train_prior import codes_of, read_clips

BOOKS, SIZE, WINDOW = 4, 1024, 150
NET = CodeLmConfig(width=64, num_heads=4, hidden=192, num_layers=2)


def speech_codes(codec: Codec, folder: pathlib.Path, file: pathlib.Path | None):
  """Codes [F, Q] of each clip of the training and test splits; `file` keeps them."""
  names = "train", "test"
  if file is None or not file.exists():
    clips = {name: read_clips(folder / f"speech_{name}.tar") for name in names}
    found = {name: [c[:, :BOOKS] for c in codes_of(codec, clips[name], name)] for name in names}
    if file is None:
      return found["train"], found["test"]
    arrays = {name: np.concatenate(found[name]).astype(np.int16) for name in names}
    ends = {f"{name}_ends": np.cumsum([len(c) for c in found[name]]) for name in names}
    np.savez(file, **arrays, **ends)
  with np.load(file) as kept:
    return tuple(np.split(kept[n].astype(np.int32), kept[f"{n}_ends"][:-1]) for n in names)


def windows(clips) -> np.ndarray:
  """All whole windows of clips, [N, WINDOW, Q]."""
  parts = [c[: len(c) // WINDOW * WINDOW].reshape(-1, WINDOW, BOOKS) for c in clips]
  return np.concatenate(parts)


def config_of(
  pattern: str, steps: int, seed: int, num_codebooks: int = BOOKS, codebook_size: int = SIZE
) -> TrainCodes:
  model = CodeLm(net=NET, num_codebooks=num_codebooks, codebook_size=codebook_size, pattern=pattern)
  return TrainCodes(
    name=f"code-lm-{pattern}",
    model=model,
    data=Codes(read=32, written=32),
    batch_size=4,
    num_steps=steps,
    optimizer=Adam(
      rate=LearningRate(peak=6e-3, warmup_steps=30, cosine=True), weight_decay=0.1, clip_norm=1.0
    ),
    remat=False,
    compute_dtype=jnp.float32,
    average_decay=0.99,
    seed=seed,
  )


def trained(config: TrainCodes, clips):
  """Averaged weights, and seconds a step (median)."""
  state = jax.jit(functools.partial(sequences.init_state, config=config))(
    jax.random.key(config.seed)
  )
  step = jax.jit(functools.partial(sequences.train_step, config=config), donate_argnums=0)
  rng, frames = np.random.default_rng(config.seed), config.data.read + config.data.written
  clips = [clip for clip in clips if len(clip) >= frames]
  shares = np.array([len(clip) for clip in clips], np.float64)
  key, taken = jax.random.key(config.seed + 1), []
  for _ in range(config.num_steps):
    chosen = rng.choice(len(clips), config.batch_size, p=shares / shares.sum())
    starts = [rng.integers(0, len(clips[i]) - frames + 1) for i in chosen]
    batch = [clips[i][s : s + frames] for i, s in zip(chosen, starts, strict=True)]
    start = time.perf_counter()
    state, metrics = step(state, np.stack(batch), key)
    jax.block_until_ready(metrics["objective"])
    taken.append(time.perf_counter() - start)
  return state.average, float(np.median(taken))


@functools.partial(jax.jit, static_argnames="model")
def model_bits(model: CodeLm, params, codes):
  """Mean bits of each codebook's codes [B, T, Q]: [Q]."""
  logits, target = model.apply({"params": params}, codes, method="foretell")
  labels = jnp.maximum(target, 0)
  nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  there = target >= 0
  return jnp.where(there, nats, 0).sum((0, 1)) / there.sum((0, 1)) / np.log(2)


@functools.partial(jax.jit, static_argnames="config")
def prior_bits(params, vectors, codes, config):
  """The same under the learned prior, with the frequencies that its files have."""
  params, every = prior_model.as_float(params), jnp.arange(BOOKS)
  entries = vectors.astype(jnp.float32)[every, codes]
  latents = jnp.cumsum(entries, axis=2)
  inputs = prior_model.frame_inputs(latents[:, :, 0], latents[:, :, 1], latents[:, :, -1])
  h = prior_model.context(params, inputs, BOOKS, config)
  found = []
  for book in range(BOOKS):
    depth = prior_model.of_codebook(params["depth"], book)
    before = latents[:, :, book - 1] if book else jnp.zeros_like(latents[:, :, 0])
    counts = prior_model.frequencies(prior_model.logits(depth, h, before))
    count = jnp.take_along_axis(counts, codes[:, :, book, None], axis=-1)
    found.append((prior_model.PRECISION - jnp.log2(count.astype(jnp.float32))).mean())
  return jnp.stack(found)


def mean_over(function, held, rows: int = 16) -> np.ndarray:
  """The mean of a function of windows, whole batches alone."""
  parts = [function(held[i : i + rows]) for i in range(0, len(held) - rows + 1, rows)]
  return np.mean([np.asarray(part) for part in parts], axis=0)


def table_bits(clips, held) -> np.ndarray:
  """Bits of codes by their shares in the training speech, one more of each."""
  codes = np.concatenate(clips)
  counts = np.stack([np.bincount(column, minlength=SIZE) for column in codes.T]) + 1
  shares = counts / counts.sum(axis=1, keepdims=True)
  return np.stack([-np.log2(shares[q, held[..., q]]).mean() for q in range(BOOKS)])


def frames_a_second(model: CodeLm, params, prompt, guidance: float | None = None) -> float:
  draw = functools.partial(sample, model, params, prompt[None], frames=150, guidance=guidance)
  draw(jax.random.key(0)).block_until_ready()
  start = time.perf_counter()
  draw(jax.random.key(1)).block_until_ready()
  return 150 / (time.perf_counter() - start)


def write_speed(frame_rate: float) -> None:
  """Three seconds after a prompt of two."""
  model = code_lm_speech.get_config().model
  prompt = np.random.default_rng(0).integers(0, SIZE, (100, BOOKS), dtype=np.int32)
  init = jax.jit(functools.partial(model.init, method="foretell"), static_argnums=2)
  params = init(jax.random.key(0), prompt[None, :2], 1)["params"]
  size = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
  print("| million parameters | guidance | frames/s | times real time |")
  print("|---:|---|---:|---:|")
  for guidance in (None, 1.5):
    found = frames_a_second(model, params, prompt, guidance)
    print(f"| {size:.1f} | {guidance or 'none'} | {found:.0f} | {found / frame_rate:.1f} |")


def row(name: str, each, *rest: str) -> str:
  books = " | ".join(f"{value:.2f}" for value in each)
  return " | ".join([f"| {name} | {np.mean(each):.3f}", *rest, books]) + " |"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path)
  parser.add_argument("--speed", action="store_true")
  parser.add_argument("--codes", type=pathlib.Path, help="an .npz that keeps the codes")
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--patterns", nargs="+", default=list(PATTERNS), choices=list(PATTERNS))
  options = parser.parse_args()
  codec = load_sound("speech-16khz")
  if options.speed:
    write_speed(codec.sample_rate / codec.hop_length)
    return
  if options.data is None:
    parser.error("--data says where the speech is")
  clips, held_clips = speech_codes(codec, options.data, options.codes)
  held = windows(held_clips)
  print(f"{sum(map(len, clips))} frames to learn from, {held.shape[0]} windows held out")
  print("| foretold by | bits a code | seeds | s/step | frames/s | book 1 | 2 | 3 | 4 |")
  print("|---|---:|---|---:|---:|---:|---:|---:|---:|")
  print(row("shares in the training speech", table_bits(clips, held), "", "", ""))
  prior = codec.learned
  assert prior is not None
  score = functools.partial(prior_bits, prior.params, prior.vectors, config=prior.config)
  print(row("the learned prior of files", mean_over(score, held), "", "", ""), flush=True)
  for pattern in options.patterns:
    found, taken = [], []
    for seed in range(options.seeds):
      config = config_of(pattern, options.steps, seed)
      params, seconds = trained(config, clips)
      found.append(mean_over(functools.partial(model_bits, config.model, params), held))
      taken.append(seconds)
    means = np.mean(found, axis=1)
    speed = frames_a_second(config.model, params, held[0])
    spread = f"{means.min():.3f} to {means.max():.3f}"
    each = np.mean(found, axis=0)
    print(row(pattern, each, spread, f"{np.median(taken):.2f}", f"{speed:.0f}"), flush=True)


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
