"""The causal Conformer's parts against their definitions."""

import itertools

import jax
import numpy as np

from jaxcodec.functional.log_mel import log_mel
from jaxcodec.functional.transducer import ctc_labels, transducer_loss
from jaxcodec.layers import conformer


def test_an_even_length_makes_one_more_frame():
  # 105 mel frames make 53, 27, 14; with one more, 54, 28, 15.
  assert [conformer.num_frames(n) for n in (105, 106, 217, 80)] == [14, 15, 28, 11]


def test_the_shift_takes_scores_from_distances_to_keys():
  queries, keys = 3, 5
  # Distances 4, 3, ..., -2; query i stands at key i + 2.
  by_distance = np.broadcast_to(np.arange(keys - 1, -queries, -1), (queries, keys + queries - 1))
  found = conformer.relative_shift(by_distance[None].astype(np.float32), keys)[0]
  wanted = np.arange(queries)[:, None] + keys - queries - np.arange(keys)
  np.testing.assert_array_equal(found, wanted)


def test_waves_in_chunks_give_the_spectra_of_the_whole():
  x = np.random.default_rng(0).normal(0, 0.1, (1, 2000)).astype(np.float32)

  @jax.jit
  def both(x):
    whole, _ = log_mel(x, 12)
    first, state = log_mel(x[:, :700], 12, final=False)
    second, state = log_mel(x[:, 700:1500], 12, state, final=False)
    third, _ = log_mel(x[:, 1500:], 12, state)
    return whole, (first, second, third)

  whole, parts = both(x)
  # Frame 3 needs samples to 160 * 3 + 200, which 700 are and 600 would not be.
  assert [part.shape[1] for part in parts] == [4, 5, 3]
  np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-4)
  # Frame 5 by hand: samples 600 to 999 under the window, in the middle of 512.
  y = x[0, 600:1000] - 0.97 * x[0, 599:999]
  power = np.abs(np.fft.rfft(y * np.hanning(400), 512)) ** 2
  from jaxcodec.functional.spectral import mel_filterbank

  wanted = np.log(power @ mel_filterbank(16_000, 512, 12, slaney=True) + 2.0**-24)
  np.testing.assert_allclose(whole[0, 5], wanted, atol=1e-4)


def alignments(frames, labels):
  """All orders of labels and of a blank a frame, which comes last: places [t, u, label] of each."""
  for path in set(itertools.permutations("b" * (frames - 1) + "e" * len(labels))):
    t, u, places = 0, 0, []
    for move in (*path, "b"):
      places.append((t, u, -1 if move == "b" else labels[u]))
      t, u = (t + 1, u) if move == "b" else (t, u + 1)
    yield places


def by_enumeration(log_p, labels):
  """The log-likelihood over all alignments."""
  scores = [sum(log_p[place] for place in places) for places in alignments(len(log_p), labels)]
  return np.logaddexp.reduce(scores)


def occupancy(log_p, labels, weight):
  """How likely an alignment goes through a place, as `log_p`; through that of a label, `weight`
  times as much."""
  found, total = np.zeros_like(log_p), by_enumeration(log_p, labels)
  for places in alignments(len(log_p), labels):
    share = np.exp(sum(log_p[place] for place in places) - total)
    for place in places:
      found[place] += share * (1.0 if place[-1] == -1 else weight)
  return found


def test_the_transducers_loss_is_that_of_all_alignments():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 2, (2, 4, 3, 5)).astype(np.float32)
  labels = np.array([[1, 1], [3, 0]])
  lengths, counts = np.array([4, 3]), np.array([2, 1])

  def loss(logits, fast_emit):
    return transducer_loss(logits, lengths, labels, counts, fast_emit).sum()

  each = jax.jit(lambda x: transducer_loss(x, lengths, labels, counts))(logits)
  log_p = np.asarray(jax.nn.log_softmax(logits))
  wanted = [by_enumeration(log_p[0], labels[0]), by_enumeration(log_p[1, :3, :2], labels[1, :1])]
  np.testing.assert_allclose(each, -np.array(wanted), rtol=1e-5)
  # What is not there has no gradient, and FastEmit changes gradients alone.
  (value, gradient), (fast, other) = (
    jax.jit(jax.value_and_grad(loss), static_argnums=1)(logits, f) for f in (0.0, 0.5)
  )
  assert float(value) == float(fast)
  assert np.abs(gradient[1, 3:]).max() == np.abs(gradient[1, :, 2:]).max() == 0
  # A label's share of the gradient is half as large again: by all alignments, in NumPy.
  for row, (frames, count) in enumerate(zip(lengths, counts, strict=True)):
    said = log_p[row, :frames, : count + 1]
    for found, weight in ((gradient, 1.0), (other, 1.5)):
      by_log_p = -occupancy(said, labels[row, :count], weight)
      wanted = by_log_p - np.exp(said) * by_log_p.sum(axis=-1, keepdims=True)
      np.testing.assert_allclose(found[row, :frames, : count + 1], wanted, atol=1e-5)


def test_labels_that_repeat_count_once_across_chunks():
  blank = 4
  best = np.array([[1, 1, blank, 1, 1, 2], [3, blank, blank, 3, 0, 0]])
  there = np.arange(6) < np.array([[6], [4]])
  whole, last = ctc_labels(best, there, np.array([-1, -1]))
  wanted = [[1, -1, blank, 1, -1, 2], [3, blank, -1, 3, -1, -1]]
  np.testing.assert_array_equal(whole, wanted)
  np.testing.assert_array_equal(last, [2, 3])
  found, last = [], np.array([-1, -1])
  for start in (0, 2, 4):
    labels, last = ctc_labels(best[:, start : start + 2], there[:, start : start + 2], last)
    found.append(labels)
  np.testing.assert_array_equal(np.concatenate(found, axis=1), wanted)
