"""The step: one compilation, what it skips, what it averages, where it puts codebooks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import micro
import numpy as np
import pytest

from jaxcodec import functional as F
from jaxcodec.data.sound import Packed
from jaxcodec.training import codebooks, diagnosis, discriminators as D, losses
from jaxcodec.training.config import Adam, Adversary, LearningRate, Losses
from jaxcodec.training.state import init_state
from jaxcodec.training.step import _forward, _gradients, train_step

KEY = 7


@pytest.fixture(scope="module")
def start():
  key = jax.random.key(KEY)
  quick = {"xla_backend_optimization_level": 0}
  return jax.jit(lambda key: init_state(key, micro.config()), compiler_options=quick)(key)


@pytest.fixture(scope="module")
def step():
  return jax.jit(functools.partial(train_step, config=micro.config()))


@pytest.fixture(scope="module")
def after(start, step):
  return step(start, micro.batch(), jax.random.key(KEY))


def test_a_step_learns_and_counts(start, after):
  state, metrics = after
  assert int(state.step) == 1
  assert int(state.skipped) == 0
  moved = [
    float(np.abs(a - b).max())
    for a, b in zip(jax.tree.leaves(start.params), jax.tree.leaves(state.params), strict=True)
  ]
  assert min(moved) > 0
  assert {"l1", "commitment", "objective", "gradient_norm", "perplexity"} <= set(metrics)
  assert float(metrics["objective"]) == float(metrics["l1"])


def test_codebooks_are_the_moving_averages_of_what_they_were_given(start, after):
  state, _ = after
  config = micro.config()
  codebooks_now = np.asarray(codebooks.read(config, state.params))
  smoothed = np.asarray(F.ema_update(state.ema, F.CodeStatistics(*state.ema), 1.0)[0])
  np.testing.assert_allclose(codebooks_now, smoothed, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(codebooks_now, np.asarray(codebooks.read(config, state.average)))


def test_a_batch_that_is_not_finite_changes_nothing_but_the_counters(start, step):
  bad = micro.batch()
  bad[3, 10] = np.nan
  state, metrics = step(start, bad, jax.random.key(KEY))
  assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (1, 1, 1)
  zero = jnp.zeros((), jnp.int32)
  same = state._replace(step=zero, skipped=zero, skipped_in_row=zero)
  jax.tree.map(np.testing.assert_array_equal, same, start)
  reason = diagnosis.diagnose(start, bad, metrics["finite"], micro.config())
  assert "the batch itself" in reason
  # The count starts again with the next good step.
  state, _ = step(state, micro.batch(), jax.random.key(KEY))
  assert (int(state.skipped), int(state.skipped_in_row)) == (1, 0)


def test_a_broken_layer_is_named(start, step):
  params = jax.tree.map(lambda leaf: leaf, start.params)
  params["decoder"]["up_0"]["kernel"] = params["decoder"]["up_0"]["kernel"].at[0].set(np.inf)
  broken = start._replace(params=params)
  _, metrics = step(broken, micro.batch(), jax.random.key(KEY))
  reason = diagnosis.diagnose(broken, micro.batch(), metrics["finite"], micro.config())
  assert "loss l1" in reason
  assert "first layer whose output is not finite: decoder/up_0" in reason
  assert "gradients, as of codec/" in reason


@pytest.mark.slow
def test_parts_of_a_batch_accumulate_to_the_whole(start):
  """Without draws, as the whole batch draws other numbers than its parts do."""
  still = dataclasses.replace(micro.config().quantization, active_choices=(), dead_share=0.0)
  states = []
  for parts in (1, 4):
    config = micro.config(accumulate=parts, quantization=still)
    states.append(
      jax.jit(functools.partial(train_step, config=config))(
        start, micro.batch(), jax.random.key(KEY)
      )[0]
    )
  whole, accumulated = states
  for part in ("params", "ema", "usage"):
    jax.tree.map(
      # Adam's first step divides a gradient by its own size: rounding of small ones shows.
      functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
      getattr(whole, part),
      getattr(accumulated, part),
    )


@pytest.mark.slow
def test_frames_without_a_clip_count_in_no_codebook_and_no_loss(start):
  still = dataclasses.replace(micro.config().quantization, active_choices=(), dead_share=0.0)
  config = micro.config(quantization=still, accumulate=2)
  segments = np.repeat([[1] * 5 + [2] * 7 + [0] * 4, [1] * 16], 4, axis=0).astype(np.int32)
  exists = np.repeat(segments > 0, 4, axis=1)[..., None]
  packed = Packed(np.where(exists, micro.batch(), 0), segments)
  step = jax.jit(functools.partial(train_step, config=config))
  state, metrics = step(start, packed, jax.random.key(KEY))
  assert int(state.skipped) == 0
  # All 112 frames of clips, and no other, have a code of the first codebook.
  counts = [np.asarray(s.ema.counts)[0].sum() for s in (start, state)]
  np.testing.assert_allclose(counts[1], 0.99 * counts[0] + 0.01 * 112, rtol=1e-5)
  np.testing.assert_allclose(float(state.usage[0].sum()), 0.01 * 112, rtol=1e-5)
  # Nothing is decoded where there is no clip: the mean has zeros there.
  forward = functools.partial(_forward, step=start.step, config=config, segments=segments)
  quick = {"xla_backend_optimization_level": 0}
  (y, _), _ = jax.jit(forward, compiler_options=quick)(
    start.params, x=packed.x, key=jax.random.key(KEY)
  )
  np.testing.assert_array_equal(np.asarray(y)[~exists], 0)
  assert np.abs(y).max() > 0
  np.testing.assert_allclose(metrics["l1"], np.abs(packed.x - y).mean(), rtol=1e-5)


@pytest.mark.slow
def test_bfloat16_computes_and_float32_learns(start, after):
  config = micro.config(compute_dtype=jnp.bfloat16)
  program = jax.jit(functools.partial(train_step, config=config))
  traced = program.lower(start, micro.batch(), jax.random.key(KEY))
  assert "bf16" in traced.as_text()
  state, metrics = traced.compile()(start, micro.batch(), jax.random.key(KEY))
  assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
  # Eight bits of mantissa through six layers.
  np.testing.assert_allclose(metrics["l1"], after[1]["l1"], rtol=0.02)


@pytest.mark.slow
def test_gradients_with_discriminators_are_those_of_the_whole_loss(start):
  """VQGAN's weight, R1, sums over parts: against one loss that `jax.grad` sees through."""
  judges = (D.MultiPeriod(periods=(2, 3), widths=(4, 4)),)
  config = micro.config(
    adversary=Adversary(
      discriminators=judges,
      optimizer=Adam(rate=LearningRate(peak=1e-3)),
      loss=losses.LEAST_SQUARES,
      summed=True,
      r1=0.3,
    ),
    losses=Losses(l1=2.0, adversarial=0.8, features=0.5, commitment=0.25, adaptive=True),
  )
  x, key = jnp.asarray(micro.batch()), jax.random.key(3)
  params = jax.jit(judges[0].init)(jax.random.key(1), x)["params"]
  state = start._replace(discriminators=(params,))

  def judge(params, signal):
    return judges[0].apply({"params": params}, signal)

  def terms(codec_params):
    (y, side), _ = _forward(codec_params, x=x, key=key, step=state.step, config=config)
    real, fake = judge(params, x), judge(params, y)
    adversarial = sum(jnp.square(1 - part.logits).mean() for part in fake)
    maps = [(a.features, b.features) for a, b in zip(real, fake, strict=True)]
    features = sum(jnp.abs(r - f).mean() for a, b in maps for r, f in zip(a, b, strict=True))
    return 2 * jnp.abs(x - y).mean() + 0.5 * features, adversarial, side, y

  def discriminator_loss(params, y):
    real, fake = judge(params, x), judge(params, y)
    each = [
      jnp.square(1 - a.logits).mean() + jnp.square(b.logits).mean()
      for a, b in zip(real, fake, strict=True)
    ]
    by_wave = jax.grad(lambda x: sum(part.logits.sum() for part in judge(params, x)))(x)
    return sum(each) + 0.3 * 0.5 * jnp.square(by_wave).sum(axis=(1, 2)).mean()

  @jax.jit
  def wanted(codec_params):
    def at_last_kernel(term):
      gradients = jax.grad(lambda params: terms(params)[term])(codec_params)
      return gradients["decoder"]["conv_out"]["kernel"]

    near, adversarial = at_last_kernel(0), at_last_kernel(1)
    weight = jnp.linalg.norm(near.ravel()) / (jnp.linalg.norm(adversarial.ravel()) + 1e-4)
    weight = jax.lax.stop_gradient(weight)

    def whole(codec_params):
      near, adversarial, side, _ = terms(codec_params)
      return near + 0.8 * weight * adversarial + side

    y = terms(codec_params)[3]
    return jax.grad(whole)(codec_params), jax.grad(discriminator_loss)(params, y)

  codec_gradients, judge_gradients = wanted(state.params)
  found, _ = jax.jit(functools.partial(_gradients, config=config))(state, x, key)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
  jax.tree.map(close, found["codec"], codec_gradients)
  jax.tree.map(close, found["discriminators"][0], judge_gradients)
