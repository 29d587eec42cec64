"""Codes under a learned prior: chunks of frames, many at once, to bytes and back.

Shapes: L lanes (a row of a chunk each), F frames, Q codebooks in use, K entries, N = F Q symbols.

A lane's symbols are its codes, frame by frame and in each the codebooks in turn, under the
frequencies of `prior_model`, in the rANS of `functional.rans` with P = 16. To write, the network
sees all frames at once; to read, it goes frame by frame with its keys and values kept, all lanes
together, in one compiled program. Both do the same arithmetic on whole numbers, so they agree
wherever they run.

A chunk's payload: for each row but the last the number of its words in 4 bytes; then for each row
its state in 4 bytes and its words in 2 bytes each; all little-endian.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.entropy import prior_model
from jaxcodec.entropy.prior_model import PRECISION, PriorConfig
from jaxcodec.errors import CodecError
from jaxcodec.functional import rans

# Writing compares each pair of a chunk's frames, so longer chunks are left to other coders.
MAX_FRAMES = 1024
# Lanes of the programs that read: few for one recording, more for many. Idle ones are cheap.
_LANES = (8, 32)
_LANES_WRITTEN = 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedPrior:
  """A network of `prior_model`, and what it knows of its codec.

  Attributes:
    config: sizes, static.
    params: whole numbers: int8 weights, int32 biases.
    vectors: int16 [Q, K, C], what the codes stand for.
  """

  config: PriorConfig = dataclasses.field(metadata={"static": True})
  params: Any
  vectors: Any

  def fits(self, sizes: Sequence[int], frames: int) -> bool:
    """Whether chunks of `frames` frames of codebooks of `sizes` can be coded."""
    c = self.config
    return (
      2 <= len(sizes) <= c.num_codebooks
      and set(sizes) == {c.codebook_size}
      and (0 < frames <= MAX_FRAMES)
    )


def digest(prior: LearnedPrior) -> bytes:
  """16 bytes that tell priors apart: SHA-256 over sizes and arrays, the same on every machine."""
  config = json.dumps(dataclasses.asdict(prior.config), sort_keys=True)
  state = hashlib.sha256(config.encode())
  tree = {"params": prior.params, "vectors": prior.vectors}
  for path, leaf in sorted(
    (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ):
    array = np.asarray(leaf)
    state.update(f"{path}{array.dtype.str}{array.shape}".encode())
    state.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))))
  return state.digest()[:16]


def encode(prior: LearnedPrior, chunks: Sequence[np.ndarray]) -> list[bytes]:
  """The payload of each chunk of codes int32 [B, F, Q], of one Q and at most 1024 frames.

  Raises:
    ValueError: if a chunk does not fit the prior, or a code is not in its codebook.
  """
  if not chunks:
    return []
  codebooks = chunks[0].shape[-1]
  for codes in chunks:
    sizes = (prior.config.codebook_size,) * codes.shape[-1]
    if codes.shape[-1] != codebooks or not prior.fits(sizes, codes.shape[1]):
      raise ValueError(f"the prior does not code chunks of shape {codes.shape}")
    if codes.min() < 0 or codes.max() >= prior.config.codebook_size:
      raise ValueError("a code is outside its codebook")
  lanes = [row for codes in chunks for row in codes]
  coded: list[tuple[bytes, bytes]] = []
  for some in _groups(lanes, _LANES_WRITTEN):
    longest = max(len(row) for row in some)
    padded = np.zeros((_num_lanes(some), _round_up(longest), prior.config.num_codebooks), np.int32)
    for lane, row in enumerate(some):
      padded[lane, : len(row), :codebooks] = row
    start, freq = _intervals(prior, padded, codebooks)
    # A symbol that is sure costs nothing: so are those that pad.
    there = np.zeros((len(padded), padded.shape[1], 1), bool)
    for lane, row in enumerate(some):
      there[lane, : len(row)] = True
    streams = jax.tree.map(np.asarray, _push_all(start, freq, there, codebooks))
    coded += [
      (streams.states[lane].astype("<u4").tobytes(), words.astype("<u2").tobytes())
      for lane, words in enumerate(
        streams.words[lane, : streams.counts[lane]] for lane in range(len(some))
      )
    ]
  payloads, at = [], 0
  for codes in chunks:
    rows = coded[at : at + len(codes)]
    at += len(codes)
    counts = np.array([len(words) // 2 for _, words in rows[:-1]], "<u4").tobytes()
    payloads.append(counts + b"".join(state + words for state, words in rows))
  return payloads


def decode(
  prior: LearnedPrior, payloads: Sequence[bytes], shapes: Sequence[tuple[int, int, int]]
) -> list[np.ndarray | None]:
  """The codes int32 [B, F, Q] of each payload; `shapes` say which, with one Q.

  None for a payload that does not end as it should. The codes of others are in range whatever the
  payloads are, and the time is bounded by the shapes.

  Raises:
    ValueError: if a shape does not fit the prior.
    CodecError: as `check_payload`.
  """
  if not payloads:
    return []
  codebooks, lanes = shapes[0][2], []
  for payload, shape in zip(payloads, shapes, strict=True):
    sizes = (prior.config.codebook_size,) * shape[2]
    if shape[2] != codebooks or not prior.fits(sizes, shape[1]):
      raise ValueError(f"the prior does not code chunks of shape {shape}")
    lanes += [(state, words, shape[1]) for state, words in _split(payload, shape)]
  rows: list[np.ndarray | None] = []
  for some in _groups(lanes, _LANES[-1]):
    size = _num_lanes(some)
    frames = _round_up(max(length for _, _, length in some))
    words = np.zeros((size, frames * prior.config.num_codebooks), np.uint32)
    counts, lengths = np.zeros(size, np.int32), np.zeros(size, np.int32)
    states = np.full(size, rans.LOWEST_STATE, np.uint32)
    for lane, (state, read, length) in enumerate(some):
      words[lane, : len(read)] = read
      states[lane], counts[lane], lengths[lane] = state, len(read), length
    streams = rans.Streams(jnp.asarray(words), jnp.asarray(counts), jnp.asarray(states))
    codes, intact = jax.tree.map(np.asarray, _read(prior, streams, lengths, codebooks))
    rows += [
      codes[lane, :length, :codebooks] if intact[lane] else None
      for lane, (_, _, length) in enumerate(some)
    ]
  out: list[np.ndarray | None] = []
  at = 0
  for shape in shapes:
    chunk = [row for row in rows[at : at + shape[0]] if row is not None]
    out.append(np.stack(chunk) if len(chunk) == shape[0] else None)
    at += shape[0]
  return out


def check_payload(payload: bytes | memoryview, shape: tuple[int, int, int]) -> None:
  """Raises CodecError if a payload cannot be one of codes of `shape` [B, F, Q]."""
  _split(payload, shape)


@functools.partial(jax.jit, static_argnames="codebooks")
def _push_all(start, freq, there, codebooks: int):
  """rANS of intervals [L, F, Q] where there are frames."""
  start = jnp.where(there, start, 0)[..., :codebooks]
  freq = jnp.where(there, freq, prior_model.TOTAL)[..., :codebooks]
  start, freq = (jnp.moveaxis(x, 0, -1).reshape(-1, len(x)) for x in (start, freq))
  return rans.encode(start, freq, PRECISION)


@jax.jit
def _intervals(prior: LearnedPrior, codes, num_active):
  """Starts and frequencies uint32 [L, F, Q] of codes [L, F, Q], of which num_active are in use."""
  params = prior_model.as_float(prior.params)
  vectors, books = prior.vectors.astype(jnp.float32), jnp.arange(codes.shape[-1])
  entries = jnp.where((books < num_active)[:, None], vectors[books, codes], 0)
  latents = jnp.cumsum(entries, axis=2)  # Whole numbers: exact.
  inputs = prior_model.frame_inputs(latents[:, :, 0], latents[:, :, 1], latents[:, :, -1])
  h = prior_model.context(params, inputs, num_active, prior.config)

  def interval(book):
    before = jnp.where(book > 0, latents[:, :, book - 1], 0)
    logits = prior_model.logits(prior_model.of_codebook(params["depth"], book), h, before)
    freq = prior_model.frequencies(logits)
    entry = jnp.arange(freq.shape[-1])
    code = codes[:, :, book, None]
    start = jnp.where(entry < code, freq, 0).sum(axis=-1)
    return start, jnp.take_along_axis(freq, code, axis=-1)[..., 0]

  starts, freqs = jax.lax.map(interval, books)
  return jnp.moveaxis(starts, 0, -1), jnp.moveaxis(freqs, 0, -1)


@jax.jit
def _read(prior: LearnedPrior, streams: rans.Streams, lengths, num_active):
  """`(codes int32 [L, F, Q], intact bool [L])`; the words are [L, F Q] wide."""
  config = prior.config
  params = prior_model.as_float(prior.params)
  vectors, lanes = prior.vectors.astype(jnp.float32), jnp.arange(len(lengths))
  most = streams.words.shape[1] // config.num_codebooks
  nothing = jnp.zeros((len(lengths), config.latent))

  def book_step(book, carry):
    states, at, codes, h, first, second, latent, there = carry
    depth = prior_model.of_codebook(params["depth"], book)
    freq = prior_model.frequencies(prior_model.logits(depth, h, latent))
    code, start, size = find(freq, rans.slots(states, PRECISION))
    popped, wanting = rans.pop(states, start, size, PRECISION)
    popped = rans.refill(popped, rans.read(streams.words, streams.counts, lanes, at), wanting)
    states = jnp.where(there, popped, states)
    at = at + (wanting & there)
    latent = latent + vectors[book, code]
    first = jnp.where(book == 0, latent, first)
    second = jnp.where(book == 1, latent, second)
    codes = codes.at[:, book].set(code)
    return states, at, codes, h, first, second, latent, there

  def frame_step(frame, carry):
    states, at, memory, inputs, out = carry
    memory, h = prior_model.next_context(params, memory, inputs, frame, num_active, config)
    codes = jnp.zeros((len(lengths), config.num_codebooks), jnp.int32)
    carry = states, at, codes, h, nothing, nothing, nothing, frame < lengths
    carry = jax.lax.fori_loop(0, num_active, book_step, carry)
    states, at, codes, _, *latents, _ = carry
    out = jax.lax.dynamic_update_index_in_dim(out, codes, frame, 0)
    return states, at, memory, prior_model.frame_inputs(*latents), out

  out = jnp.zeros((most, len(lengths), config.num_codebooks), jnp.int32)
  memory = prior_model.init_memory(config, len(lengths))
  inputs = jnp.zeros((len(lengths), 3 * config.latent))
  carry = streams.states, jnp.zeros_like(streams.counts), memory, inputs, out
  states, at, _, _, out = jax.lax.fori_loop(0, lengths.max(), frame_step, carry)
  return jnp.moveaxis(out, 0, 1), (states == rans.LOWEST_STATE) & (at == streams.counts)


def find(freq, slot):
  """`(code, start, frequency)` [L] of the entry whose interval holds the slot.

  freq is [L, K]. Sums of rows of about sqrt(K) entries first, then within one row: a running sum of
  all entries at once is slow where it is not vectorised.
  """
  lanes, size = freq.shape
  width = 1 << (size.bit_length() // 2)
  freq = jnp.pad(freq, ((0, 0), (0, -size % width))).reshape(lanes, -1, width)
  row, above = _place(freq.sum(axis=-1), slot)
  within = jnp.take_along_axis(freq, row[:, None, None], axis=1)[:, 0]
  column, start = _place(within, slot - above)
  code = row * width + column
  return code, above + start, jnp.take_along_axis(within, column[:, None], axis=1)[:, 0]


def _place(parts, slot):
  """The part [L] of parts [L, N] in which the slot lies, and the sum of the parts before it."""
  index = jnp.arange(parts.shape[-1])
  ends = jnp.where(index <= index[:, None], parts[:, None], 0).sum(axis=-1)
  passed = ends <= slot[:, None]
  return passed.sum(axis=-1, dtype=jnp.int32), jnp.where(passed, parts, 0).sum(axis=-1)


def _split(payload, shape: tuple[int, int, int]) -> list[tuple[int, np.ndarray]]:
  """State and words of each row."""
  batch, frames, codebooks = shape
  head = 4 * (batch - 1)
  words = len(payload) - head - 4 * batch
  if words < 0 or words % 2:
    raise CodecError(f"{len(payload)} bytes cannot be {batch} streams")
  counts = np.frombuffer(payload[:head], "<u4").astype(np.int64)
  counts = np.append(counts, words // 2 - counts.sum())
  # A symbol writes at most one word.
  if counts.min() < 0 or counts.max() > frames * codebooks:
    raise CodecError("the lengths of its streams do not fit it")
  rows, at = [], head
  for count in counts:
    end = at + 4 + 2 * int(count)
    state = int.from_bytes(payload[at : at + 4], "little")
    if state < rans.LOWEST_STATE:
      raise CodecError("a stream's state is too small")
    rows.append((state, np.frombuffer(payload[at + 4 : end], "<u2")))
    at = end
  return rows


def _groups(lanes: list, size: int) -> list[list]:
  return [lanes[i : i + size] for i in range(0, len(lanes), size)]


def _num_lanes(group: list) -> int:
  return next(size for size in _LANES if len(group) <= size)


def _round_up(frames: int) -> int:
  """Frames of the program for chunks of `frames`: few shapes, so few compilations."""
  return -(-frames // 500) * 500 if frames > 128 else 128
