"""A classifier's run: labelled sounds, what is done to them, norms' statistics, three steps."""

import dataclasses

import jax
import numpy as np
import pytest
import soundfile

from configs.lmuformer import tiny
from jaxcodec import cli
from jaxcodec.audio.lmuformer import normalised
from jaxcodec.data import pipeline
from jaxcodec.data.labelled import Example, loudest
from jaxcodec.errors import CodecError
from jaxcodec.functional.log_mel import kaldi_log_mel
from jaxcodec.hub.classifier import load_classifier
from jaxcodec.training import classes, loop, tasks
from jaxcodec.training.classes import Augment

NOTHING = Augment(mixed=0.0, bands=0, frames=0, noise=0.0, shift=0)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
  folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
  rows = ["file,split,class"]
  for i, (split, name) in enumerate(
    [("train", "low"), ("train", "high"), ("val", "low"), ("train", "other")]
  ):
    x = 0.01 * rng.normal(size=8000)
    x[3200:3360] += 0.1 * (i + 1)
    soundfile.write(folder / f"{i}.wav", x, 16_000)
    rows.append(f"{i}.wav,{split},{name}")
  (folder / "table.csv").write_text("\n".join(rows) + "\n")
  return folder


def config_of(folder):
  config = tiny()
  data = dataclasses.replace(config.data, sources=(str(folder),), table=str(folder / "table.csv"))
  return dataclasses.replace(config, data=data)


def test_the_loudest_part_is_taken_or_the_end():
  x = np.zeros(1000, np.float32)
  x[400] = 1
  np.testing.assert_array_equal(loudest(x, 300), x[320:620])
  np.testing.assert_array_equal(loudest(x, 900), x[100:])
  np.testing.assert_array_equal(loudest(x[:10], 12), np.zeros(12))


def test_recordings_of_the_split_with_a_known_class_are_the_examples(sounds):
  config = config_of(sounds)
  data = pipeline.dataset(config.data, config.model, batch_size=8, num_steps=1, seed=0)
  batch = data[0]
  assert batch.x.shape == (8, 2000)
  assert set(batch.label.tolist()) == {0, 1}
  for x, label in zip(*batch, strict=True):
    np.testing.assert_allclose(x[:160].mean(), 0.1 * (label + 1), atol=0.01)


def test_what_cannot_be_used_is_refused(sounds, tmp_path):
  config = config_of(sounds)

  def dataset(**changes):
    data = dataclasses.replace(config.data, **changes)
    return pipeline.dataset(data, config.model, batch_size=8, num_steps=1, seed=0)

  with pytest.raises(CodecError, match="no table of file, split, class"):
    dataset(table=str(tmp_path / "none.csv"))
  with pytest.raises(ValueError, match="has a class for no recording"):
    dataset(split="test")
  three = dataclasses.replace(config.data, names=("a", "b", "c"))
  with pytest.raises(ValueError, match=r"3 classes, model\.config\.classes=2"):
    tasks.check(dataclasses.replace(config, data=three))


def test_augmentation_mixes_masks_and_turns():
  network = tiny().model.config
  rng = np.random.default_rng(0)
  x = (0.1 * rng.normal(size=(64, 2000))).astype(np.float32)
  label = np.arange(64, dtype=np.int32) % 2
  batch = Example(x, label)

  @jax.jit
  def run(batch):
    key = jax.random.key(3)
    each = {
      "none": NOTHING,
      "mixed": dataclasses.replace(NOTHING, mixed=0.6),
      "masked": dataclasses.replace(NOTHING, bands=4, frames=5),
      "turned": dataclasses.replace(NOTHING, shift=3),
      "noisy": dataclasses.replace(NOTHING, noise=0.1),
    }
    plain = normalised(kaldi_log_mel(batch.x, network.bands)[0])
    return plain, {name: classes.augmented(key, batch, network, how) for name, how in each.items()}

  plain, found = run(batch)
  plain, found = np.asarray(plain), jax.tree.map(np.asarray, found)
  np.testing.assert_allclose(found["none"][0], plain, atol=1e-6)
  np.testing.assert_array_equal(found["none"][1], np.eye(2)[label])
  # Neighbours are of the other kind: the smaller part of each target is the mix.
  share = found["mixed"][1][np.arange(64), 1 - label]
  assert 0.45 < (share > 0).mean() < 0.75
  drawn = found["mixed"][1][np.arange(64), label][share > 0]
  # Beta(10, 10).
  assert abs(drawn.mean() - 0.5) < 0.05
  assert abs(drawn.std() - 21**-0.5 / 2) < 0.04
  silent = normalised(0.0)
  masked = np.isclose(found["masked"][0], silent, atol=1e-6)
  others = ~masked
  np.testing.assert_allclose(found["masked"][0][others], plain[others], atol=1e-6)
  rows, columns = masked.all(axis=2).sum(axis=1), masked.all(axis=1).sum(axis=1)
  assert 0 < rows.max() <= 5
  assert 0 < columns.max() <= 4
  turns = [
    next(s for s in range(-3, 4) if np.allclose(np.roll(a, s, axis=0), b, atol=1e-6))
    for a, b in zip(plain, found["turned"][0], strict=True)
  ]
  assert set(turns) == set(range(-3, 4))
  added = found["noisy"][0] - plain
  assert added.min() >= -1e-6
  assert added.max() <= 0.1
  assert added.std() > 0.01


@pytest.mark.slow
def test_a_run_learns_keeps_its_norms_statistics_and_classifies(sounds, tmp_path, capsys):
  config, run = config_of(sounds), tmp_path / "run"
  state = loop.run(config, run, quiet=True, devices=jax.devices()[:1])
  assert (int(state.step), int(state.skipped)) == (3, 0)
  norm = state.params["norm_0"]
  # Three steps of a tenth each away from 0 and 1; an activation after a ReLU has a mean above 0.
  assert (np.asarray(norm["mean"]) >= 0).all()
  assert (np.asarray(norm["variance"]) != 1).all()
  assert (np.asarray(norm["variance"]) > 0.729 - 1e-6).all()
  np.testing.assert_array_equal(state.average["norm_0"]["mean"], norm["mean"])
  loaded = load_classifier(run)
  assert loaded.names == ("low", "high")
  jax.tree.map(np.testing.assert_array_equal, loaded.params, state.average)
  assert cli.main(["classify", str(sounds / "0.wav"), "--model", str(run), "--frames", "11"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert {line.split()[1] for line in lines} == {"low", "high"}
  assert all(0 < float(line.split()[0]) < 1 for line in lines)
  assert cli.main(["classify", str(sounds / "0.wav"), "--model", str(sounds)]) == 1
  assert "config.json" in capsys.readouterr().err
