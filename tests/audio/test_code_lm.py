"""The language model over codes: its cache, its draws, and guidance, against its own definition."""

import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from random_params import draw_params

from jaxcodec import functional as F
from jaxcodec.audio.code_lm import CodeLm, CodeLmConfig, sample

NET = CodeLmConfig(width=8, num_heads=2, hidden=16, num_layers=2)
BOOKS, SIZE = 3, 7
READ, FRAMES = 3, 4


def model_of(pattern: str) -> CodeLm:
  return CodeLm(net=NET, num_codebooks=BOOKS, codebook_size=SIZE, pattern=pattern)


@pytest.fixture(scope="module")
def params():
  # The weights know nothing of the pattern. Larger than at the start, so that logits differ.
  drawn = draw_params(model_of("delay"), np.zeros((1, 2, BOOKS), np.int32), seed=3)
  return jax.tree.map(lambda leaf: 2 * leaf, drawn)


@functools.cache
def _foretell(pattern: str):
  model = model_of(pattern)
  return jax.jit(lambda params, codes: model.apply({"params": params}, codes, method="foretell"))


def foretold(params, pattern: str, codes):
  return tuple(map(np.asarray, _foretell(pattern)(params, codes)))


def prompt(rows: int = 2, frames: int = READ):
  return np.random.default_rng(0).integers(0, SIZE, (rows, frames, BOOKS)).astype(np.int32)


def test_no_step_sees_a_later_one(params):
  codes = prompt(2, 7)
  logits, target = foretold(params, "delay", codes)
  assert logits.shape == (*target.shape, SIZE)
  other = codes.copy()
  other[:, 4:] = (other[:, 4:] + 1) % SIZE
  changed = np.abs(foretold(params, "delay", other)[0] - logits).max(axis=(0, 2, 3))
  # Frame 4 of the first codebook stands in step 4, which step 5 is the first one to see.
  assert changed[:5].max() < 1e-5 < changed[5:].min()


@functools.partial(jax.jit, static_argnames="model")
def _chunk(model, params, before, cache, start):
  return model.apply({"params": params}, before, cache, start)


@given(sizes=st.permutations((1, 1, 1, 3, 3)))
@settings(max_examples=8, deadline=None)
def test_chunks_with_a_cache_give_the_logits_of_all_at_once(params, sizes):
  model = model_of("delay")
  wanted, target = foretold(params, "delay", prompt(2, 7))
  before = np.pad(target[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=-1)
  assert before.shape[1] == sum(sizes) == 9
  cache, found = model.init_cache(2, 9), []
  for start, stop in itertools.pairwise((0, *np.cumsum(sizes))):
    logits, cache = _chunk(model, params, before[:, start:stop], cache, start)
    found.append(logits)
  np.testing.assert_allclose(np.concatenate(found, axis=1), wanted, atol=2e-5)


@pytest.mark.parametrize("pattern", ["flat", "parallel", "delay"])
def test_what_is_drawn_is_likeliest_under_teacher_forced_logits(params, pattern):
  # Guidance for one of them: it is the same loop with twice the rows.
  guidance = 2.0 if pattern == "delay" else None
  draw = functools.partial(sample, model_of(pattern), params, prompt())
  codes = np.asarray(draw(jax.random.key(0), frames=FRAMES, temperature=0.0, guidance=guidance))
  np.testing.assert_array_equal(codes[:, :READ], prompt())
  logits, target = foretold(params, pattern, codes)
  if guidance is not None:
    absent = np.where(np.arange(READ + FRAMES)[:, None] < READ, -1, codes)
    without = foretold(params, pattern, absent)[0]
    assert np.abs(logits - without).max() > 0.1
    logits = without + guidance * (logits - without)
  order = model_of(pattern).order(READ + FRAMES)
  drawn = np.broadcast_to(order >= READ, target.shape)
  assert drawn.sum() == 2 * FRAMES * BOOKS
  top = np.sort(logits, axis=-1)[drawn]
  assert (top[:, -1] - top[:, -2]).min() > 1e-4  # No tie, so one answer.
  np.testing.assert_array_equal(logits.argmax(axis=-1)[drawn], target[drawn])


def test_draws_are_as_frequent_as_the_logits_say(params):
  rows = 8192
  same = np.repeat(prompt(1), rows, axis=0)
  codes = sample(
    model_of("parallel"), params, same, jax.random.key(1), frames=1, temperature=0.7, top_k=3
  )
  found = np.stack([np.bincount(column, minlength=SIZE) for column in np.asarray(codes)[:, -1].T])
  logits = foretold(params, "parallel", np.concatenate([prompt(1), prompt(1)[:, :1]], axis=1))[0]
  logits = logits[0, READ] / 0.7
  weights = np.where(logits < np.sort(logits)[:, -3:-2], 0, np.exp(logits))
  shares = weights / weights.sum(axis=1, keepdims=True)
  assert (found[shares == 0] == 0).all()
  # Five deviations of a share of so many draws.
  np.testing.assert_allclose(found / rows, shares, atol=5 * 0.5 / rows**0.5)


def test_an_empty_prompt_is_continued_and_wrong_calls_are_refused(params):
  model, nothing = model_of("parallel"), np.zeros((2, 0, BOOKS), np.int32)
  codes = np.asarray(sample(model, params, nothing, jax.random.key(0), frames=2))
  assert codes.shape == (2, 2, BOOKS)
  assert codes.min() >= 0
  with pytest.raises(ValueError, match="a prompt of 2 codebooks, by a model of 3"):
    sample(model, params, prompt()[..., :2], jax.random.key(0), frames=1)
  with pytest.raises(ValueError, match="0 frames"):
    sample(model, params, prompt(), jax.random.key(0), frames=0)


def test_patterns_order_frames():
  assert [len(model_of(name).order(5)) for name in ("flat", "parallel", "delay")] == [15, 5, 7]
  np.testing.assert_array_equal(model_of("delay").order(5), F.delay_pattern(5, BOOKS))
