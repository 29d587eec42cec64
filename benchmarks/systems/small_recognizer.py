"""A small Stateful Conformer learns to spell in minutes: its error rates streamed, whole, buffered.

Command: python -m benchmarks.systems.small_recognizer --data SPEECH_DIR

SPEECH_DIR holds `speech.csv`, `speech_train.tar` and `speech_test.tar`. Networks learn by CTC from
the recordings that have a text, those of 5.5 s at most, without masks and dropout: under the mask
of chunks of 320 ms, of 80 ms, of either in turn, or with the whole signal to attend to. The
convolutions of all see the past alone. The hybrid has a transducer too, and answers by CTC. Errors
are of the test recordings with a text, whose speakers and texts are others: insertions, deletions
and substitutions for each letter (spaces are letters) of the text, and how many texts are other
than the whole's. "Streamed" is chunk by chunk with caches; "whole" the signal at once under the
mask of chunks; "buffered" each chunk computed anew with the 1.28 s before it, nothing kept. Means
and standard deviations over seeds.
"""

import argparse
import dataclasses
import functools
import io
import pathlib
import tarfile
import time

import jax
import numpy as np
import soundfile

from benchmarks.systems import short_runs
from jaxcodec import terminal
from jaxcodec.audio import recognizer
from jaxcodec.audio.recognizer import Recognizer
from jaxcodec.audio.stateful_conformer import ConformerConfig, StatefulConformer
from jaxcodec.data import pipeline
from jaxcodec.data.transcribed import LETTERS, Transcribed, read_table
from jaxcodec.functional.log_mel import HOP, log_mel
from jaxcodec.functional.transducer import ctc_labels
from jaxcodec.layers.conformer import LEAD, REDUCTION, num_frames
from jaxcodec.training import speech
from jaxcodec.training.config import Adam, LearningRate
from jaxcodec.training.speech import SpecAugment, TrainSpeech

LEFT, RIGHTS = 16, (3, 0)
_ALL = 400  # More frames than a recording has.
NET = ConformerConfig(
  labels=len(LETTERS),
  channels=16,
  width=96,
  num_heads=4,
  hidden=384,
  num_layers=2,
  prediction=0,
  dropout=0.0,
)
# (contexts, frames to the right of each; width of the transducer).
ARMS = {
  "320 ms": ((3,), 0),
  "80 ms": ((0,), 0),
  "320 and 80 ms": (RIGHTS, 0),
  "whole signal": ((_ALL - 1,), 0),
  "320 ms, hybrid": ((3,), 96),
}


def config_of(
  folder: pathlib.Path, rights: tuple[int, ...], prediction: int, num_steps: int, seed: int
) -> TrainSpeech:
  lefts = tuple(_ALL if right == _ALL - 1 else LEFT for right in rights)
  return TrainSpeech(
    name="small-recognizer",
    model=StatefulConformer(
      dataclasses.replace(NET, lefts=lefts, rights=rights, prediction=prediction)
    ),
    augment=SpecAugment(band_masks=0, time_masks=0),
    data=Transcribed(
      sources=(str(folder / "speech_train.tar"),),
      table=str(folder / "speech.csv"),
      seconds=5.5,
      letters=60,
    ),
    batch_size=8,
    num_steps=num_steps,
    optimizer=Adam(
      rate=LearningRate(peak=2e-3, warmup_steps=num_steps // 10, cosine=True),
      b2=0.98,
      weight_decay=1e-3,
      clip_norm=1.0,
    ),
    average_decay=0.99,
    seed=seed,
  )


def trained(config: TrainSpeech) -> tuple[Recognizer, list[float]]:
  """A network after a run, and CTC's loss at each of its steps in nats a recording."""
  data = pipeline.dataset(
    config.data,
    config.model,
    batch_size=config.batch_size,
    num_steps=config.num_steps,
    seed=config.seed,
  )
  key = jax.random.key(config.seed)
  state = jax.jit(functools.partial(speech.init_state, config=config))(key)
  step = jax.jit(functools.partial(speech.train_step, config=config), donate_argnums=0)
  start, losses = time.perf_counter(), []
  for i in range(config.num_steps):
    state, metrics = step(state, data[i], key)
    losses.append(float(metrics["ctc"]))
    if (i + 1) % 100 == 0:
      took = time.perf_counter() - start
      terminal.say(f"step {i + 1}: CTC {np.mean(losses[-100:]):.1f} nats a row, {took:.0f} s")
  if int(state.skipped):
    raise RuntimeError(f"{int(state.skipped)} steps were not finite")
  return Recognizer(config.model, state.average, LETTERS), losses


def held_out(folder: pathlib.Path) -> list[tuple[np.ndarray, str]]:
  """Waves and texts of the test recordings that have one."""
  table, found = read_table(str(folder / "speech.csv")), []
  with tarfile.open(folder / "speech_test.tar") as tar:
    for member in tar:
      name, file = pathlib.PurePath(member.name).name, tar.extractfile(member)
      if name in table and file is not None:
        x, rate = soundfile.read(io.BytesIO(file.read()), dtype="float32")
        assert rate == recognizer.SAMPLE_RATE
        found.append((x, table[name][1].lower()))
  return found


@functools.partial(jax.jit, static_argnames="module")
def _best(module, params, mel, length, left, right):
  """CTC's best labels of rows taken at once [B, T], and which frames exist."""
  bound = module.bind({"params": params})
  y, there = bound.encode(mel, length, left, right)
  return bound.ctc_logits(y).argmax(axis=-1), there


def whole(found: Recognizer, mel: np.ndarray, length: np.ndarray, context: int) -> list[str]:
  net = found.module.config
  mask = net.lefts[context], net.rights[context]
  return _texts(*_best(found.module, found.params, mel, length, *mask))


def streamed(found: Recognizer, mel: np.ndarray, length: np.ndarray, context: int) -> list[str]:
  """As `recognizer.transcribe`, of rows of their own lengths."""
  size = REDUCTION * (found.module.config.rights[context] + 1)
  frames = LEAD + length
  count = -(-(frames.max() + 1) // size)
  padded = np.pad(mel, ((0, 0), (LEAD, count * size - LEAD - mel.shape[1]), (0, 0)))
  state, parts = recognizer.init_listening(found, len(mel), LEFT), []
  for i in range(count):
    there = np.clip(frames - i * size, 0, size).astype(np.int32)
    chunk = padded[:, i * size : (i + 1) * size]
    state, labels = recognizer.listen(found.module, found.params, state, chunk, there)
    parts.append(np.asarray(labels["ctc"][..., 0]))
  return [recognizer.written(row, LETTERS) for row in np.concatenate(parts, axis=1)]


def buffered(
  found: Recognizer, mel: np.ndarray, length: np.ndarray, context: int, right: int
) -> list[str]:
  """Of windows of `right + 1` frames and those before; silence stands before the start."""
  net, size, before = found.module.config, REDUCTION * (right + 1), REDUCTION * LEFT
  frames = num_frames(length)
  count = -(-frames.max() // (right + 1))
  fill = (before, max(0, count * size - mel.shape[1]))
  padded = np.pad(mel, ((0, 0), fill, (0, 0)), constant_values=mel.min())
  mask, parts = (net.lefts[context], net.rights[context]), []
  for i in range(count):
    window = padded[:, i * size : i * size + before + size - LEAD]
    many = np.full(len(mel), window.shape[1])
    best, _ = _best(found.module, found.params, window, many, *mask)
    parts.append(np.asarray(best)[:, -(right + 1) :])
  best = np.concatenate(parts, axis=1)
  return _texts(best, np.arange(best.shape[1]) < frames[:, None])


def _texts(best, there) -> list[str]:
  labels, _ = ctc_labels(best, there, np.full(len(best), -1))
  labels = np.asarray(labels)
  return [recognizer.written(np.where(row == NET.labels, -1, row), LETTERS) for row in labels]


def distance(a, b) -> int:
  """Insertions, deletions and substitutions from one sequence to another."""
  row = np.arange(len(b) + 1)
  for i, left in enumerate(a):
    new = [i + 1]
    for j, right in enumerate(b):
      new.append(min(row[j] + (left != right), row[j + 1] + 1, new[j] + 1))
    row = np.array(new)
  return int(row[-1])


def errors(texts: list[str], found: list[str]) -> float:
  """Errors a letter, in %."""
  pairs = zip(texts, found, strict=True)
  return 100 * sum(distance(a, b) for a, b in pairs) / sum(map(len, texts))


def answers(found: Recognizer, mel: np.ndarray, length: np.ndarray):
  """`{(milliseconds late, how): texts}`; of a network that attends to all, buffered ones too."""
  texts = {}
  for context, right in enumerate(found.module.config.rights):
    every = right == _ALL - 1
    texts["all" if every else _late(right), "whole"] = whole(found, mel, length, context)
    if not every:
      texts[_late(right), "streamed"] = streamed(found, mel, length, context)
    for chunk in RIGHTS if every else (right,):
      texts[_late(chunk), "buffered"] = buffered(found, mel, length, context, chunk)
  return texts


def _late(right: int) -> str:
  return str(80 * (right + 1))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=1500)
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
  options = parser.parse_args()
  clips = held_out(options.data)
  texts = [text for _, text in clips]
  lengths = np.array([len(x) for x, _ in clips])
  waves = np.stack([np.pad(x, (0, lengths.max() - len(x))) for x, _ in clips])
  mel = np.asarray(jax.jit(lambda x: log_mel(x, NET.bands)[0])(waves))
  print(f"{options.steps} steps of 8 recordings, {options.seeds} seeds; {len(texts)} to test\n")
  print("| learnt under | late, ms | | errors a letter, % | texts other than the whole's |")
  print("|---|---:|---|---:|---:|")
  curves, example = {}, ()
  for name in options.arms:
    rows: dict[tuple[str, str], list[tuple[float, int]]] = {}
    curves[name] = []
    for seed in range(options.seeds):
      found, losses = trained(config_of(options.data, *ARMS[name], options.steps, seed))
      curves[name].append(losses)
      said = answers(found, mel, lengths // HOP)
      for (late, how), written in said.items():
        base = said.get((late, "whole"), said.get(("all", "whole")))
        apart = sum(a != b for a, b in zip(base, written, strict=True))
        rows.setdefault((late, how), []).append((errors(texts, written), apart))
      example = list(zip(texts, next(iter(said.values())), strict=True))[:3]
      terminal.say(f"seed {seed}: {name} {[(*key, found[-1]) for key, found in rows.items()]}")
    for (late, how), values in rows.items():
      letter, apart = zip(*values, strict=True)
      print(
        f"| {name} | {late} | {how} | {short_runs.spread(letter, 1)} | {max(apart)} |", flush=True
      )
  print("\n| learnt under | CTC, nats a recording, of each fifth of the run |")
  print("|---|---|")
  for name, runs in curves.items():
    fifths = np.array_split(np.mean(runs, axis=0), 5)
    print(f"| {name} | {', '.join(f'{part.mean():.1f}' for part in fifths)} |")
  for text, written in example:
    print(f"  {text!r}: {written!r}")


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
