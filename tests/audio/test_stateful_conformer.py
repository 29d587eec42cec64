"""The Stateful Conformer: streamed answers are the whole's, for every look-ahead and both heads."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from random_params import draw_params

from jaxcodec.audio.stateful_conformer import ConformerConfig, StatefulConformer
from jaxcodec.functional.transducer import ctc_labels
from jaxcodec.layers.conformer import LEAD, REDUCTION, num_frames

CONFIG = ConformerConfig(
  labels=5,
  bands=10,
  channels=4,
  width=8,
  num_heads=2,
  hidden=16,
  num_layers=2,
  kernel=3,
  lefts=(8, 8, 8),
  rights=(3, 1, 0),
  prediction=6,
)
MODEL = StatefulConformer(CONFIG)
LENGTHS = np.array([203, 137, 96])  # Mel frames; even ones make a frame at the end that sees zeros.


@pytest.fixture(scope="module")
def mel():
  return np.random.default_rng(0).normal(0, 1, (3, LENGTHS.max(), CONFIG.bands)).astype(np.float32)


@pytest.fixture(scope="module")
def drawn(mel):
  return draw_params(MODEL, mel, LENGTHS, np.zeros((3, 2), np.int32), 8, 3)


@pytest.fixture(scope="module")
def encoded(drawn, mel):
  """Of each context: frames, which exist, and CTC's logits."""

  @jax.jit
  def run(params, mel, lefts, rights):
    bound = MODEL.bind({"params": params})

    def one(context):
      y, there = bound.encode(mel, LENGTHS, *context)
      return y, there, bound.ctc_logits(y)

    return jax.lax.map(one, (lefts, rights))

  contexts = (jnp.asarray(which) for which in (CONFIG.lefts, CONFIG.rights))
  return jax.tree.map(np.asarray, run(drawn, mel, *contexts))


@pytest.fixture(scope="module")
def params(drawn, encoded):
  """With a transducer that says something at about half of the frames, before it said anything."""
  weights = jax.tree.map(np.asarray, drawn)
  i, _, g, o = np.split(weights["lstm_bias"], 4)
  sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
  spoken = sigmoid(o) * np.tanh(sigmoid(i) * np.tanh(g))
  frames = encoded[0][encoded[1]]
  for name, x in (("joint_encoder", frames), ("joint_prediction", spoken)):
    frames = x @ weights[name]["kernel"] + weights[name]["bias"] + (0 if x is frames else frames)
  out = weights["joint_out"]
  logits = np.maximum(frames, 0) @ out["kernel"] + out["bias"]
  margin = np.median(logits[:, -1] - logits[:, :-1].max(axis=1))
  bias = out["bias"] - margin * (np.arange(CONFIG.labels + 1) == CONFIG.labels)
  return drawn | {"joint_out": out | {"bias": jnp.asarray(bias, jnp.float32)}}


@pytest.fixture(scope="module")
def whole(params, encoded):
  """What is `encoded`, and the transducer's labels."""

  @jax.jit
  def run(params, y, there):
    bound = MODEL.bind({"params": params})
    start = bound.init_spoken(len(LENGTHS))
    return jax.lax.map(lambda given: bound.search(*given, start)[0], (y, there))

  return *encoded, np.asarray(run(params, *encoded[:2]))


@functools.partial(jax.jit, static_argnames="which")
def in_chunks(params, chunks, ends, which):
  """Of each chunk: frames, which exist, CTC's logits, and the transducer's labels."""
  bound = MODEL.bind({"params": params})

  def one(carry, given):
    stream, spoken = carry
    y, there, stream = bound.step(*given, stream)
    labels, spoken = bound.search(y, there, spoken)
    return (stream, spoken), (y, there, bound.ctc_logits(y), labels)

  start = bound.init_stream(3, CONFIG.lefts[which]), bound.init_spoken(3)
  return jax.lax.scan(one, start, (chunks, ends))[1]


def streamed(params, mel, lengths, which):
  """As `in_chunks`, joined along time."""
  size = REDUCTION * (CONFIG.rights[which] + 1)
  count = -(-(LEAD + mel.shape[1] + 1) // size)
  padded = np.pad(mel, ((0, 0), (LEAD, count * size - LEAD - mel.shape[1]), (0, 0)))
  chunks = np.moveaxis(padded.reshape(3, count, size, -1), 1, 0)
  ends = np.minimum(lengths, size * np.arange(1, count + 1)[:, None] - LEAD)
  return [np.concatenate(x, axis=1) for x in in_chunks(params, chunks, ends, which)]


@pytest.mark.parametrize(
  "which", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow), 2]
)
def test_a_stream_gives_the_answers_of_the_whole(params, mel, whole, which):
  found = streamed(params, mel, LENGTHS, which)
  wanted = [x[which] for x in whole]
  steps = wanted[0].shape[1]
  assert num_frames(LENGTHS.max()) == steps <= found[0].shape[1]
  there = wanted[1]
  np.testing.assert_array_equal(found[1][:, :steps], there)
  np.testing.assert_array_equal(there.sum(axis=1), num_frames(LENGTHS))
  assert not found[1][:, steps:].any()
  # Orders of summation differ.
  np.testing.assert_allclose(found[0][:, :steps][there], wanted[0][there], atol=2e-5)
  np.testing.assert_allclose(found[2][:, :steps][there], wanted[2][there], atol=5e-5)
  np.testing.assert_array_equal(found[3][:, :steps][there], wanted[3][there])
  # Some frames say something, some nothing.
  assert 0 < (wanted[3][there] >= 0).any(axis=-1).mean() < 1


@jax.jit
def at_once(params, mel, lengths, left, right):
  bound = MODEL.bind({"params": params})
  y, there = bound.encode(mel, lengths, left, right)
  return y, there, bound.ctc_logits(y), bound.search(y, there, bound.init_spoken(len(mel)))[0]


@pytest.mark.slow
@given(
  lengths=st.tuples(*[st.integers(1, int(LENGTHS.max()))] * 3),
  which=st.integers(0, len(CONFIG.rights) - 1),
)
@settings(max_examples=30, deadline=None)
def test_rows_of_any_lengths_are_streamed_as_the_whole(params, mel, lengths, which):
  lengths = np.array(lengths)
  wanted = at_once(params, mel, lengths, CONFIG.lefts[which], CONFIG.rights[which])
  wanted = [np.asarray(x) for x in wanted]
  there, steps = wanted[1], wanted[1].shape[1]
  found = streamed(params, mel, lengths, which)
  np.testing.assert_array_equal(there.sum(axis=1), num_frames(lengths))
  np.testing.assert_array_equal(found[1][:, :steps], there)
  assert not found[1][:, steps:].any()
  for i, tolerance in ((0, 2e-5), (2, 5e-5), (3, 0)):
    np.testing.assert_allclose(found[i][:, :steps][there], wanted[i][there], atol=tolerance)


@pytest.fixture(scope="module")
def alone(params, mel):
  """What `at_once` gives for a row that ends somewhere, nothing after it."""

  @functools.cache
  def answers(row, length):
    found = at_once(params, mel[row : row + 1, :length], np.array([length]), 8, 3)
    return [np.asarray(x)[0] for x in found]

  return answers


@pytest.mark.slow
@given(lengths=st.tuples(*[st.sampled_from((1, 8, 57, 130, int(LENGTHS.max())))] * 3))
@settings(max_examples=15, deadline=None)
def test_rows_of_any_lengths_are_answered_as_if_alone(params, mel, alone, lengths):
  found = [np.asarray(x) for x in at_once(params, mel, np.array(lengths), 8, 3)]
  for row, length in enumerate(lengths):
    wanted, count = alone(row, length), num_frames(length)
    assert wanted[1].all()
    assert found[1][row].sum() == count == len(wanted[1])
    for i, tolerance in ((0, 2e-5), (2, 5e-5), (3, 0)):
      np.testing.assert_allclose(found[i][row, :count], wanted[i], atol=tolerance)


def test_contexts_differ(whole):
  y, there = whole[0], whole[1]
  assert np.abs(y[0] - y[1])[there[0]].max() > 1e-3


def test_the_mask_is_the_double_loop_of_the_paper():
  """A frame's answer changes with the mel frames of its chunk and of those that it may see."""
  left, right, frames = 8, 3, 17
  chunk = np.arange(frames) // (right + 1)
  sees = np.zeros((frames, frames), bool)
  for i in range(frames):
    for j in range(frames):
      sees[i, j] = 0 <= chunk[i] - chunk[j] <= left // (right + 1)
  one = StatefulConformer(dataclasses.replace(CONFIG, num_layers=1, kernel=1, ctc=True))
  mel = np.random.default_rng(1).normal(0, 1, (1, 8 * frames - 7, CONFIG.bands)).astype(np.float32)
  params = draw_params(one, mel, np.array([10]), np.zeros((1, 2), np.int32), left, right)
  length = np.array([mel.shape[1]])

  @jax.jit
  def touched(params, mel):
    def y(mel):
      return one.apply({"params": params}, mel, length, left, right, method="encode")[0][0]

    _, pull = jax.vjp(y, mel)
    ones = jnp.eye(frames)[:, :, None] * jnp.ones(CONFIG.width) * jnp.arange(1, CONFIG.width + 1)
    return jax.vmap(lambda g: jnp.abs(pull(g)[0]).sum(axis=(0, 2)))(ones) > 0

  found = np.asarray(touched(params, mel))
  # Frame j is made of mel frames 8 j - 14 to 8 j.
  wanted = np.zeros(found.shape, bool)
  for i, j in zip(*np.nonzero(sees), strict=True):
    wanted[i, max(0, 8 * j - 14) : 8 * j + 1] = True
  np.testing.assert_array_equal(found, wanted)


@pytest.mark.slow
def test_losses_are_of_what_exists_and_learn(params, mel):
  labels = np.array([[1, 2, 2], [0, -1, -1], [4, 3, -1]])

  def loss(params, mel, labels, length=LENGTHS):
    losses = MODEL.apply({"params": params}, mel, length, labels, 8, 3)
    return losses["ctc"] + losses["transducer"], losses

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (total, losses), gradients = step(params, mel, labels, LENGTHS)
  after = mel.copy()
  after[1, LENGTHS[1] :] = 9.0
  np.testing.assert_allclose(step(params, after, labels, LENGTHS)[0][0], total, rtol=1e-5)
  # Three labels and the blanks between them do not fit into the three frames of ten mel frames.
  short = np.array([10, *LENGTHS[1:]])
  (_, found), fewer = step(params, mel, np.array([[2, 2, 2], *labels[1:]]), short)
  assert 0 < float(found["ctc"]) < float(losses["ctc"])
  assert all(bool(np.isfinite(g).all()) for g in jax.tree.leaves(fewer))
  assert all(float(np.abs(g).max()) > 0 for g in jax.tree.leaves(gradients))
  for _ in range(12):
    params = jax.tree.map(lambda p, g: p - 0.02 * g, params, gradients)
    (_, found), gradients = step(params, mel, labels, LENGTHS)
  assert all(float(found[name]) < 0.8 * float(losses[name]) for name in losses)


def test_frames_spell_what_ctc_says(whole):
  best, there = whole[2][0].argmax(axis=-1), whole[1][0]
  labels, _ = ctc_labels(best, there, np.full(3, -1))
  for row, exists, spelled in zip(best, there, np.asarray(labels), strict=True):
    row = row[exists]
    runs = [value for i, value in enumerate(row) if i == 0 or row[i - 1] != value]
    assert [value for value in spelled if 0 <= value < CONFIG.labels] == [
      value for value in runs if value < CONFIG.labels
    ]


def test_contexts_that_contradict_themselves_are_refused():
  with pytest.raises(ValueError, match="left=9 is no multiple of the chunk, 4 frames"):
    dataclasses.replace(CONFIG, lefts=(9,), rights=(3,))
  with pytest.raises(ValueError, match="to be pairs"):
    dataclasses.replace(CONFIG, lefts=(8, 8))
  with pytest.raises(ValueError, match="nothing gives labels"):
    dataclasses.replace(CONFIG, ctc=False, prediction=0)
