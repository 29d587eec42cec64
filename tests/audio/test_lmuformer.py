"""LMUFormer, plain and spiking: rows of their own lengths, streams of waves, and lookahead."""

import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from random_params import draw_params

from jaxcodec.audio import classifier
from jaxcodec.audio.lmuformer import LOOKAHEAD, LmuConfig, LmuFormer

SIZES = {"classes": 3, "bands": 10, "width": 8, "theta": 16, "hidden": 12}
MODULES = {
  "plain": LmuFormer(LmuConfig(**SIZES, memory=6)),
  "spiking": LmuFormer(LmuConfig(**SIZES, memory=12, spiking=True)),
}
EVERY = pytest.mark.parametrize("name", ["plain", pytest.param("spiking", marks=pytest.mark.slow)])
FRAMES = 14
LENGTH = 400 + 160 * (FRAMES - 1) + 70  # What is left is no frame.
LENGTHS = (400, 400 + 160 * 7, LENGTH)

classify = jax.jit(classifier.classify, static_argnames=("module", "frames"))
listen = jax.jit(classifier.listen, static_argnames=("module", "final"))


def signal():
  return (0.1 * np.random.default_rng(0).normal(size=(2, LENGTH))).astype(np.float32)


@functools.cache
def params_of(name):
  params = draw_params(MODULES[name], np.zeros((1, 1, 10), np.float32))
  for layer, arrays in params.items():
    if "variance" in arrays:
      arrays["variance"] = 0.3 + np.abs(arrays["variance"])
      arrays["scale"] = (3 if name == "spiking" else 1) * np.abs(arrays["scale"])
    if layer.endswith("memory_input_norm"):
      arrays["bias"] += 1.0  # The one neuron of the memory is to fire.
  return params


def mel():
  return np.random.default_rng(1).normal(size=(2, FRAMES, 10)).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("module", "final"))
def step(module, params, mel, state, final):
  return module.apply({"params": params}, mel, state, final)


@functools.cache
def each_of(name):
  return np.asarray(step(MODULES[name], params_of(name), mel(), None, True)[0])


@functools.cache
def whole_of(name):
  return np.asarray(classify(MODULES[name], params_of(name), signal()))


@functools.cache
def alone(name, length):
  return np.asarray(classify(MODULES[name], params_of(name), signal()[:, :length]))


@EVERY
@given(lengths=st.tuples(*[st.sampled_from(LENGTHS)] * 2), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_rows_of_their_own_lengths_are_answered_as_if_alone(name, lengths, seed):
  there = np.arange(LENGTH) < np.array(lengths)[:, None]
  # What stands after a row's end is of no meaning.
  noise = np.random.default_rng(seed).normal(size=there.shape)
  x = np.where(there, signal(), noise).astype(np.float32)
  together = classify(MODULES[name], params_of(name), x, length=np.array(lengths))
  for row, length in enumerate(lengths):
    np.testing.assert_allclose(together[row], alone(name, length)[row], atol=1e-5)
  assert np.abs(alone(name, LENGTHS[0]) - alone(name, LENGTH)).max() > 1e-3


@EVERY
@given(sizes=st.permutations((1, 1, 1, 1, 5, 5)))
@settings(max_examples=8, deadline=None)
def test_frames_in_chunks_of_any_sizes_give_the_logits_of_all_at_once(name, sizes):
  want, state, parts = each_of(name), None, []
  for start, stop in itertools.pairwise((0, *np.cumsum(sizes))):
    part, state = step(MODULES[name], params_of(name), mel()[:, start:stop], state, stop == FRAMES)
    parts.append(part)
  np.testing.assert_allclose(np.concatenate(parts, axis=1), want, atol=2e-5)


@EVERY
def test_a_stream_of_waves_gives_the_logits_of_the_whole(name):
  module, params, x, whole = MODULES[name], params_of(name), signal(), whole_of(name)
  state, parts = None, []
  for start, stop in ((0, 1500), (1500, LENGTH)):
    y, state = listen(module, params, x[:, start:stop], state, final=stop == LENGTH)
    parts.append(np.asarray(y))
  # Frames that are full, less those that wait for the ones ahead.
  assert parts[0].shape[1] == 1 + (1500 - 400) // 160 - LOOKAHEAD
  assert sum(part.shape[1] for part in parts) == FRAMES
  np.testing.assert_allclose(parts[-1][:, -1], whole, atol=1e-4)
  assert np.abs(parts[0][:, 0] - parts[-1][:, -1]).max() > 1e-3


def test_a_frame_sees_five_ahead_and_no_more():
  module, params = MODULES["plain"], params_of("plain")
  mel = np.random.default_rng(1).normal(size=(1, FRAMES, 10)).astype(np.float32)
  other = mel.copy()
  other[:, 9:] += 1.0
  run = jax.jit(lambda params, mel: module.apply({"params": params}, mel)[0])
  same = np.isclose(run(params, mel), run(params, other), atol=1e-6).all(axis=(0, 2))
  assert same[: 9 - LOOKAHEAD].all()
  assert not same[9:].any()


def test_sounds_are_cut_or_filled_to_frames_before_they_are_normalised():
  x = signal()
  mel = np.asarray(classifier.spectra(x, 10))
  assert mel.shape == (2, FRAMES, 10)
  filled = np.asarray(classifier.spectra(x, 10, 30))
  np.testing.assert_allclose(filled[:, :FRAMES], mel, atol=1e-6)
  np.testing.assert_allclose(filled[:, FRAMES:], 6.845978 / (2 * 5.5654526), rtol=1e-6)
  np.testing.assert_array_equal(classifier.spectra(x, 10, 7), filled[:, :7])


def test_a_wrong_call_is_refused():
  module, params, x = MODULES["plain"], params_of("plain"), signal()
  with pytest.raises(ValueError, match=r"must be \[batch, samples\]"):
    classifier.classify(module, params, x[:, :399])
  with pytest.raises(ValueError, match="give frames or length"):
    classifier.classify(module, params, x, length=np.array([500, 500]), frames=9)
