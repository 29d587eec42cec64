"""Speech to text with a Stateful Conformer: whole signals, and streams step by step."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.audio.stateful_conformer import Spoken, StatefulConformer, Stream
from jaxcodec.functional.log_mel import HOP, log_mel
from jaxcodec.functional.transducer import ctc_labels
from jaxcodec.layers.conformer import LEAD, REDUCTION

SAMPLE_RATE = 16_000


class Recognizer(NamedTuple):
  """A network, its weights, and what its labels are in writing."""

  module: StatefulConformer
  params: Any
  symbols: tuple[str, ...]


class Listening(NamedTuple):
  """What a stream of mel frames remembers, encoder and heads.

  Attributes:
    length: int [B], mel frames so far.
    last: int [B], CTC's last label.
  """

  length: jax.Array
  stream: Stream
  last: jax.Array
  spoken: Spoken | None


def init_listening(recognizer: Recognizer, batch: int, left: int) -> Listening:
  """The start of streams that see `left` frames before a chunk."""
  bound = recognizer.module.bind({"params": recognizer.params})
  spoken = bound.init_spoken(batch) if recognizer.module.config.prediction else None
  start = jnp.zeros(batch, jnp.int32)
  return Listening(start, bound.init_stream(batch, left), start - 1, spoken)


@functools.partial(jax.jit, static_argnames="module")
def listen(module: StatefulConformer, params, state: Listening, mel, count):
  """Labels of one chunk of streams: `(state, labels)`.

  Args:
    module, params: of a recognizer.
    mel: float32 [B, 8 (right + 1), bands]; a stream's first chunk has `LEAD` places before its
      first mel frame.
    count: int [B], the chunk's places that exist, `LEAD` included; fewer than there are end a row.

  Returns:
    labels: int [B, T, N] by head, "ctc" (N = 1) and "transducer"; -1 where there is none.
  """
  bound = module.bind({"params": params})
  # The first chunk's places before the signal are none of it.
  length = state.length + count - jnp.where(state.stream.frames == 0, LEAD, 0)
  y, there, stream = bound.step(mel, length, state.stream)
  labels, last, spoken = {}, state.last, state.spoken
  if module.config.ctc:
    best, last = ctc_labels(bound.ctc_logits(y).argmax(axis=-1), there, last)
    labels["ctc"] = jnp.where(best == module.config.labels, -1, best)[..., None]
  if spoken is not None:
    labels["transducer"], spoken = bound.search(y, there, spoken)
  return Listening(length, stream, last, spoken), labels


def transcribe(recognizer: Recognizer, x: np.ndarray, *, context: int = 0) -> list[dict[str, str]]:
  """Text of each row of waves, by head.

  They are taken chunk by chunk, so that memory does not grow with the length, and the text is that
  of a stream.

  Args:
    x: float32 [B, N] at 16 kHz.
    context: which of the contexts that the model was trained for.

  Raises:
    ValueError: if there is no such context, or `x` has another shape.
  """
  config = recognizer.module.config
  if np.ndim(x) != 2:
    raise ValueError(f"x must be [batch, samples], got shape {np.shape(x)}")
  if not 0 <= context < len(config.lefts):
    raise ValueError(f"context {context} is none of the {len(config.lefts)} of this model")
  left, size = config.lefts[context], REDUCTION * (config.rights[context] + 1)
  mel = jax.jit(lambda x: log_mel(x, config.bands)[0])(x)
  frames = LEAD + mel.shape[1]
  # One place more than there are mel frames, for the frame that sees zeros after the end.
  count = -(-(frames + 1) // size)
  mel = np.pad(np.asarray(mel), ((0, 0), (LEAD, count * size - frames), (0, 0)))
  state, found = init_listening(recognizer, len(x), left), []
  for i in range(count):
    there = np.full(len(x), min(size, max(0, frames - i * size)), np.int32)
    chunk = mel[:, i * size : (i + 1) * size]
    state, labels = listen(recognizer.module, recognizer.params, state, chunk, there)
    found.append(jax.tree.map(np.asarray, labels))
  return [
    {
      head: written(np.concatenate([part[head][row] for part in found]), recognizer.symbols)
      for head in found[0]
    }
    for row in range(len(x))
  ]


def written(labels: np.ndarray, symbols: Sequence[str]) -> str:
  """Labels, -1 for none, in writing; sentencepiece's mark of a word's start is a space."""
  pieces = [symbols[label] for label in labels.ravel() if label >= 0]
  return "".join(pieces).replace("\u2581", " ").strip()


def spelled(text: str, symbols: Sequence[str]) -> list[int]:
  """The labels of a text's characters in small letters; those that are no symbol are left out."""
  places = {symbol: place for place, symbol in enumerate(symbols)}
  return [places[letter] for letter in text.lower() if letter in places]


def seconds_late(module: StatefulConformer, context: int) -> float:
  """The most by which a frame's labels come after its sound: the chunk that it waits for."""
  return (module.config.rights[context] + 1) * REDUCTION * HOP / SAMPLE_RATE
