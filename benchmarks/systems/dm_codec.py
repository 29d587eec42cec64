"""DM-Codec's claim in miniature: what the first codes say of the teachers, with them and without.

Command: python -m benchmarks.systems.dm_codec --data SPEECH_DIR

SPEECH_DIR holds `speech.csv`, `speech_train.tar` and `speech_test.tar`; of clips of at most 3.5 s
that have a text, the first 3 s. HuBERT and BERT are not here: the teachers are trained on the same
data first, once. The speech model is an LSTM that reads both ways and foretells the k-means
cluster of log-mel frames that are hidden from it, which is HuBERT's first round; the language
model is an LSTM that foretells the letters of the text, its letter i set against frame i as in the
source. Arms have the same parameters, crops and steps. For all alike a linear map from the first
stage's entries to a teacher's features is fitted on the training clips; "cosine" is that of the
distillation loss on held-out clips: over time, mean over features. A linear map of the same
entries of five frames learns to spell the training clips' texts by CTC: its loss a letter of the
held-out texts, and errors a letter of its greedy answer. Means and standard deviations over seeds.
"""

import argparse
import csv
import dataclasses
import io
import pathlib
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import soundfile

from benchmarks.systems import short_runs, small_recognizer
from jaxcodec import functional as F, terminal
from jaxcodec.audio import recognizer
from jaxcodec.audio.dm_codec import DmCodec
from jaxcodec.data.taught import Taught, TaughtSound
from jaxcodec.data.transcribed import LETTERS, spelled
from jaxcodec.functional.log_mel import log_mel
from jaxcodec.functional.transducer import ctc_labels
from jaxcodec.layers.seanet import SEANetConfig
from jaxcodec.training import distillation
from jaxcodec.training.distillation import Distillation

SECONDS, HOP, WIDTH, CLUSTERS, BANDS = 3, 320, 64, 64, 40
FRAMES = SECONDS * short_runs.RATE // HOP
# Whether the speech model and the language model teach.
ARMS = {
  "none": (False, False),
  "speech model": (True, False),
  "language model": (False, True),
  "both": (True, True),
}
_ROWS = 2  # Of a step.


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=150)
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--weight", type=float, default=1.5, help="of each teacher's loss")
  options = parser.parse_args()
  train, test = (clips(options.data, split) for split in ("train", "test"))
  texts = np.stack([letters_of(row["text"]) for row in table(options.data, "train")])
  parts = zip((train, test), *teachers(train, test, texts), strict=True)
  lessons = [taught(*part) for part in parts]
  config = config_of(options.steps, options.weight)
  rows: dict[str, list[list[float]]] = {name: [] for name in ARMS}
  for seed in range(options.seeds):
    rng = np.random.default_rng(seed)
    order = [rng.choice(len(train[0]), _ROWS, replace=False) for _ in range(options.steps)]
    for name, taught_by in ARMS.items():
      # Of what is not there nothing is learnt: one compiled program serves all arms.
      there = lessons[0].there & np.array(taught_by)[:, None]
      lesson = lessons[0]._replace(there=there)
      batches = [jax.tree.map(lambda leaf, i=i: leaf[i], lesson) for i in order]
      state = short_runs.train(config, batches, seed)
      book = np.asarray(state.average["quantizer"]["codebooks"][0])
      codes = [short_runs.coded(config.codec, state, lesson.x, 1) for lesson in lessons]
      entries = [book[part[..., 0]] for part in codes]
      spelt = spelling(entries, train[1], test[1])
      found = short_runs.evaluate(config.codec, state, lessons[1].x)
      rows[name].append([*agreement(entries, lessons), *spelt, found.mel, found.snr])
      terminal.say(f"seed {seed}: {name} {np.round(rows[name][-1], 3)}")
  print(f"{options.steps} steps of {_ROWS} x {SECONDS} s, {options.seeds} seeds\n")
  columns = ["teachers", "cosine, speech model", "cosine, language model"]
  columns += ["CTC, nats a letter", "errors a letter, %", "mel distance", "SI-SDR, dB"]
  short_runs.print_table(columns, rows)


def config_of(num_steps: int, weight: float):
  """The run of every arm."""
  codec = DmCodec(
    net=SEANetConfig(
      num_filters=8, strides=(8, 5, 4, 2), dimension=60, num_lstm_layers=1, causal=False
    ),
    sample_rate=short_runs.RATE,
    num_codebooks=4,
    codebook_size=64,
    bitrates=(300, 600, 900, 1200),
    teacher_features=WIDTH,
  )
  config = short_runs.config_of(codec, num_steps=num_steps, batch_size=_ROWS)
  return dataclasses.replace(
    config,
    data=TaughtSound(segment_seconds=SECONDS, frames=FRAMES, features=WIDTH),
    losses=dataclasses.replace(config.losses, distillation=weight),
    distillation=Distillation(weights=(1.0, 1.0)),
  )


def table(folder: pathlib.Path, split: str) -> list[dict[str, str]]:
  """The rows of clips that have a text."""
  with open(folder / "speech.csv", newline="", encoding="utf-8") as file:
    return [row for row in csv.DictReader(file) if row["text"] and row["split"] == split]


def letters_of(text: str) -> np.ndarray:
  """Labels [FRAMES], -1 after the end."""
  labels = spelled(text)[:FRAMES]
  return np.pad(labels, (0, FRAMES - len(labels)), constant_values=-1).astype(np.int32)


def clips(folder: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
  """Waves [clips, N] and labels of letters [clips, FRAMES]."""
  rows = table(folder, split)
  texts = {r["file"]: r["text"] for r in rows if float(r["seconds"]) <= SECONDS + 0.5}
  waves, labels, size = [], [], SECONDS * short_runs.RATE
  with tarfile.open(folder / f"speech_{split}.tar") as tar:
    for member in tar:
      text = texts.get(pathlib.PurePath(member.name).name)
      file = tar.extractfile(member)
      if text is None or file is None:
        continue
      wave, _ = soundfile.read(io.BytesIO(file.read()), dtype="float32")
      waves.append(np.pad(wave[:size], (0, max(0, size - len(wave)))))
      labels.append(letters_of(text))
  return np.stack(waves), np.stack(labels)


def taught(clips, speech: np.ndarray, text: np.ndarray) -> Taught:
  waves, labels = clips
  features = np.stack([speech, text], axis=1)
  there = np.stack([np.ones_like(labels, bool), labels >= 0], axis=1)
  return Taught(waves[..., None], features, there)


def teachers(train, test, texts: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Features [clips, FRAMES, WIDTH] of the speech model and of the language model, each of both
  splits: per feature of mean 0 and deviation 1 over the training clips."""
  spoken = jax.jit(lambda x: log_mel(x, BANDS)[0].reshape(len(x), FRAMES, 2 * BANDS))
  mel = [np.asarray(spoken(waves)) for waves, _ in (train, test)]
  mean, spread = mel[0].mean(axis=(0, 1)), mel[0].std(axis=(0, 1))
  mel = [(part - mean) / spread for part in mel]
  key = jax.random.key(0)
  means, _ = jax.jit(lambda key, x: F.kmeans(key, x, CLUSTERS))(key, mel[0].reshape(-1, 2 * BANDS))
  hidden = _speech_model(mel[0], np.asarray(means))
  speech = [np.asarray(hidden(part)) for part in mel]
  read = _language_model(texts)
  text = [np.asarray(read(labels)) for _, labels in (train, test)]
  there = [np.ones(train[1].shape, bool), train[1] >= 0]
  for parts, rows in zip((speech, text), there, strict=True):
    mean, spread = parts[0][rows].mean(axis=0), parts[0][rows].std(axis=0)
    parts[:] = [(part - mean) / spread for part in parts]
  return speech, text


def _lstm_weights(rng, features: int, width: int):
  shapes = (features, 4 * width), (width, 4 * width), (4 * width,)
  return [(rng.uniform(-1, 1, shape) * width**-0.5).astype(np.float32) for shape in shapes]


def _trained(params, loss, num_rows: int, steps: int, rate: float, name: str):
  """Parameters after Adam on batches of 32 rows; `loss(params, rows, key) -> (loss, accuracy)`."""
  optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

  @jax.jit
  def step(params, state, rows, key):
    (_, accuracy), gradient = jax.value_and_grad(loss, has_aux=True)(params, rows, key)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, accuracy

  rng, state = np.random.default_rng(0), optimizer.init(params)
  for i in range(steps):
    rows = rng.choice(num_rows, 32, replace=False)
    params, state, accuracy = step(params, state, rows, jax.random.key(i))
  terminal.say(f"{name}: {float(accuracy):.3f} of its training answers right at the end")
  return params


def _speech_model(mel: np.ndarray, means: np.ndarray):
  """A function of log-mel frames [B, F, 2 BANDS]: what it makes of them, [B, F, WIDTH]."""
  rng, half = np.random.default_rng(1), WIDTH // 2
  params = {
    "forwards": _lstm_weights(rng, 2 * BANDS, half),
    "backwards": _lstm_weights(rng, 2 * BANDS, half),
    "head": (0.1 * rng.normal(size=(WIDTH, len(means)))).astype(np.float32),
    "hidden": np.zeros(2 * BANDS, np.float32),
  }
  distance = np.square(means).sum(axis=1) - 2 * mel @ means.T
  clusters, frames = jnp.asarray(distance.argmin(axis=-1)), jnp.asarray(mel)

  def states(params, x):
    one, _ = F.lstm(x, *params["forwards"])
    other, _ = F.lstm(x[:, ::-1], *params["backwards"])
    return jnp.concatenate([one, other[:, ::-1]], axis=-1)

  def loss(params, rows, key):
    # Runs of ten frames, about a half of all.
    covered = jax.random.bernoulli(key, 0.07, (len(rows), FRAMES))
    covered = jnp.stack([jnp.roll(covered, i, axis=1) for i in range(10)]).any(axis=0)
    x = jnp.where(covered[..., None], params["hidden"], frames[rows])
    logits = states(params, x) @ params["head"]
    target = clusters[rows]
    each = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    count = jnp.maximum(covered.sum(), 1)
    right = jnp.where(covered, logits.argmax(axis=-1) == target, False).sum() / count
    return jnp.where(covered, each, 0).sum() / count, right

  params = _trained(params, loss, len(mel), 400, 1e-2, "speech model")
  return jax.jit(lambda x: states(params, x))


def _language_model(labels: np.ndarray):
  """A function of letters [B, U], -1 for none: what it makes of each, [B, U, WIDTH]."""
  rng, letters = np.random.default_rng(2), jnp.asarray(labels)
  params = {
    "embedding": rng.normal(size=(len(LETTERS), WIDTH)).astype(np.float32),
    "lstm": _lstm_weights(rng, WIDTH, WIDTH),
    "head": (0.1 * rng.normal(size=(WIDTH, len(LETTERS)))).astype(np.float32),
  }

  def states(params, labels):
    x = jnp.where(labels[..., None] < 0, 0, params["embedding"][jnp.maximum(labels, 0)])
    return F.lstm(x, *params["lstm"])[0]

  def loss(params, rows, key):
    del key
    read, target = letters[rows][:, :-1], letters[rows][:, 1:]
    logits = states(params, read) @ params["head"]
    there = target >= 0
    known = jnp.maximum(target, 0)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, known)
    right = jnp.where(there, logits.argmax(axis=-1) == known, False).sum() / there.sum()
    return jnp.where(there, each, 0).sum() / there.sum(), right

  params = _trained(params, loss, len(labels), 200, 1e-2, "language model")
  return jax.jit(lambda labels: states(params, labels))


def agreement(entries: list[np.ndarray], lessons: list[Taught]) -> list[float]:
  """Of the first stage's entries with each teacher, on the held-out clips."""
  cosines = []
  for i in range(2):
    train, test = lessons
    there = train.there[:, i]
    x, y = short_runs.with_one(entries[0])[there], train.features[:, i][there]
    said = short_runs.with_one(entries[1]) @ short_runs.linear_map(x, y)
    each = distillation.cosines(said, test.features[:, i], jnp.asarray(test.there[:, i]))
    cosines.append(float(each.mean()))
  return cosines


def spelling(entries: list[np.ndarray], train: np.ndarray, test: np.ndarray) -> list[float]:
  """CTC's nats a letter of labels [clips, U] of the held-out clips, and errors a letter in %."""
  mean, deviation = entries[0].mean(axis=(0, 1)), entries[0].std(axis=(0, 1)) + 1e-6
  x, held = (short_runs.with_one(_five((part - mean) / deviation)) for part in entries)
  longest = max(int((labels >= 0).sum(axis=1).max()) for labels in (train, test))
  probe = _probe(x, train[:, :longest])
  best = np.asarray((held @ probe).argmax(axis=-1))
  spelt, _ = ctc_labels(best, np.ones_like(best, bool), np.full(len(best), -1))
  spelt = np.where(spelt == len(LETTERS), -1, spelt)
  texts, found = ([recognizer.written(row, LETTERS) for row in rows] for rows in (test, spelt))
  loss = float(_ctc(probe, held, test[:, :longest]))
  return [loss, small_recognizer.errors(texts, found)]


def _five(x: np.ndarray) -> np.ndarray:
  """Each frame of [clips, F, D] between its two neighbours on either side, [clips, F, 5 D]."""
  padded = np.pad(x, ((0, 0), (2, 2), (0, 0)))
  return np.concatenate([padded[:, i : i + x.shape[1]] for i in range(5)], axis=-1)


def _ctc(probe, x, labels):
  absent, known = jnp.zeros(x.shape[:2]), jnp.maximum(labels, 0)
  each = optax.ctc_loss(x @ probe, absent, known, 1.0 * (labels < 0), blank_id=len(LETTERS))
  return each.sum() / (labels >= 0).sum()


@jax.jit
def _probe(x, labels):
  adam = optax.adam(optax.cosine_decay_schedule(0.01, 200))

  def loss(probe):
    return _ctc(probe, x, labels) + 0.01 * jnp.sum(probe**2)

  def step(carry, _):
    probe, state = carry
    updates, state = adam.update(jax.grad(loss)(probe), state)
    return (optax.apply_updates(probe, updates), state), None

  probe = jnp.zeros((x.shape[-1], len(LETTERS) + 1))
  (probe, _), _ = jax.lax.scan(step, (probe, adam.init(probe)), None, length=200)
  return probe


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
