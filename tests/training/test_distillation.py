"""Codes that learn from teachers: losses by their definition, and runs on files of features."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import jaxcodec
from configs.dm_codec_16khz import tiny
from jaxcodec.data import pipeline
from jaxcodec.data.sound import Sound
from jaxcodec.data.taught import read_features
from jaxcodec.errors import CodecError
from jaxcodec.training import codecs, distillation, loop
from jaxcodec.training.config import Losses
from jaxcodec.training.distillation import Distillation

by_feature, by_frame = jax.jit(distillation.by_feature), jax.jit(distillation.by_frame)


def drawn(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def minus_log_sigmoid(x):
  return np.log1p(np.exp(-x))


def cosine(a, b):
  return np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))


STUDENT, TEACHER = drawn(2, 9, 3), drawn(2, 7, 3, seed=1)
# The second row's text is short, its rest padding.
THERE = np.arange(7) < np.array([[7], [4]])


def test_a_feature_is_compared_over_time_and_padding_is_no_target():
  lengths = (7, 4)
  each = [
    cosine(STUDENT[b, : lengths[b], d], TEACHER[b, : lengths[b], d])
    for b in range(2)
    for d in range(3)
  ]
  want = minus_log_sigmoid(np.array(each)).mean()
  np.testing.assert_allclose(by_feature(STUDENT, TEACHER, THERE), want, rtol=1e-6)
  other = np.where(THERE[..., None], TEACHER, 5.0)
  np.testing.assert_allclose(by_feature(STUDENT, other, THERE), want, rtol=1e-6)


def test_a_frame_is_compared_over_features():
  want, count = 0.0, 0
  for b, length in enumerate((7, 4)):
    for n in range(length):
      a, t = STUDENT[b, n], TEACHER[b, n]
      want, count = want + np.abs(a - t).mean() + minus_log_sigmoid(cosine(a, t)), count + 1
  np.testing.assert_allclose(by_frame(STUDENT, TEACHER, THERE), want / count, rtol=1e-6)


def test_the_loss_has_a_floor_and_silence_has_a_gradient():
  assert by_feature(TEACHER, TEACHER, THERE) == pytest.approx(np.log1p(np.exp(-1)), rel=1e-6)
  assert by_feature(-TEACHER, TEACHER, THERE) == pytest.approx(np.log1p(np.exp(1)), rel=1e-6)
  slope = jax.jit(jax.grad(distillation.by_feature))
  zeros = np.zeros_like(TEACHER)
  assert np.isfinite(slope(zeros, TEACHER, THERE)).all()
  assert np.isfinite(slope(TEACHER, zeros, THERE)).all()


def test_latents_get_the_gradient_of_every_stages_entries():
  module = tiny().codec
  z, rng = drawn(2, 5, 4), np.random.default_rng(0)
  codes = rng.integers(0, 8, (2, 5, 2)).astype(np.int32)
  books, kernel = drawn(2, 8, 4, seed=2), drawn(4, 6, seed=3)

  @jax.jit
  def run(z, books, kernel):
    params = {
      "quantizer": {"codebooks": books},
      "transform": {"kernel": kernel, "bias": jnp.zeros(6)},
    }

    def total(z, stage):
      found = module.apply({"params": params}, z, codes, stage, method="learnt")
      return (found * weights).sum(), found

    weights = jnp.arange(6.0)
    return [jax.value_and_grad(total, has_aux=True)(z, stage) for stage in range(2)]

  for stage, ((_, found), gradient) in enumerate(run(z, books, kernel)):
    np.testing.assert_allclose(found, books[stage][codes[..., stage]] @ kernel, atol=1e-5)
    wanted = np.broadcast_to(kernel @ np.arange(6.0), z.shape)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def lessons(tmp_path_factory):
  """Three clips; the third has no features of the text."""
  folder = tmp_path_factory.mktemp("clips")
  rng = np.random.default_rng(0)
  for name in ("speech", "text"):
    (folder / name).mkdir()
  for i, frames in enumerate((60, 40, 50)):
    soundfile.write(folder / f"{i}.wav", rng.normal(0, 0.1, 8 * frames), 16_000)
    np.save(folder / "speech" / f"{i}.npy", drawn(1, frames, 6, seed=i))
    if i < 2:
      np.save(folder / "text" / f"{i}.npy", drawn(7 + i, 6, seed=10 + i))
  return folder


def config_of(folder):
  config = tiny()
  teachers = str(folder / "speech"), str(folder / "text")
  data = dataclasses.replace(config.data, sources=(str(folder),), teachers=teachers)
  return dataclasses.replace(config, data=data)


def test_clips_come_with_their_teachers_features(lessons):
  config = config_of(lessons)
  data = pipeline.dataset(config.data, config.codec, batch_size=8, num_steps=1, seed=0)
  batch = data[0]
  assert [leaf.shape for leaf in batch] == [(8, 480, 1), (8, 2, 50, 6), (8, 2, 50)]
  assert set(batch.there[:, 1].sum(axis=1)) == {7, 8}
  for x, features, there in zip(*batch, strict=True):
    i = int(there[1].sum()) - 7
    assert there[0].sum() == (50, 40)[i]
    np.testing.assert_array_equal(features[0, :40], drawn(1, (60, 40)[i], 6, seed=i)[0, :40])
    np.testing.assert_array_equal(features[1, : 7 + i], drawn(7 + i, 6, seed=10 + i))
    assert not features[~there].any()
    assert np.abs(x[:320]).max() > 0.1
    assert bool(x[320:].any()) == (i == 0)


def test_features_that_cannot_be_used_are_refused(lessons, tmp_path):
  np.save(tmp_path / "a.npy", drawn(3, 5))
  with pytest.raises(CodecError, match=r"has features \(3, 5\), \[frames, 6\]"):
    read_features(tmp_path / "a.npy", 6)
  (tmp_path / "b.npy").write_bytes(b"none")
  with pytest.raises(CodecError, match="holds no features"):
    read_features(tmp_path / "b.npy", 6)
  config = config_of(lessons)
  data = dataclasses.replace(config.data, teachers=(str(tmp_path), str(tmp_path)))
  with pytest.raises(ValueError, match="have features of no file"):
    pipeline.dataset(data, config.codec, batch_size=8, num_steps=1, seed=0)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"losses": Losses(l1=1.0)}, "go together"),
    ({"distillation": None}, "go together"),
    ({"distillation": Distillation(stages=(0, 2))}, r"stages=\(0, 2\)"),
    ({"distillation": Distillation(weights=(1.0,), stages=(0,))}, "1 weights, and there are 2"),
  ],
)
def test_a_configuration_that_contradicts_itself_is_refused(changes, said):
  with pytest.raises(ValueError, match=said):
    codecs.check(dataclasses.replace(tiny(), **changes))


@pytest.mark.slow
@pytest.mark.parametrize("by_files", [True, False])
def test_a_run_learns_from_its_teachers_and_makes_a_codec(lessons, tmp_path, by_files):
  config = config_of(lessons)
  if not by_files:
    teachers = tuple(lambda x, i=i: x.reshape(len(x), 60, 8)[..., i : i + 6] for i in range(2))
    config = dataclasses.replace(
      config,
      data=Sound(sources=config.data.sources, segment_seconds=0.03),
      distillation=Distillation(teachers=teachers),
      losses=Losses(l1=1.0, distillation=10.0),
      adversary=None,
    )
  run = tmp_path / "run"
  state = loop.run(config, run, quiet=True, devices=jax.devices()[:1])
  assert (int(state.step), int(state.skipped)) == (3, 0)
  codec = jaxcodec.load(run)
  assert codec.module == config.codec
  moved = codec.params["transform"]["bias"]
  # Zeros at the start; nothing but the teachers moves them.
  assert np.abs(moved).min() > 0
  lines = (run / "metrics.jsonl").read_text().splitlines()
  losses = [json.loads(line)["distillation"] for line in lines]
  assert all(0.31 < loss < 1.32 for loss in losses)
