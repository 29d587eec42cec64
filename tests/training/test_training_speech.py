"""A recogniser's run: speech and text from a folder and a table, three steps, and its text."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
import soundfile

from configs.stateful_conformer import tiny
from jaxcodec import cli
from jaxcodec.audio.stateful_conformer import StatefulConformer
from jaxcodec.data import pipeline, transcribed
from jaxcodec.errors import CodecError
from jaxcodec.hub.recognizer import load_recognizer
from jaxcodec.layers.conformer import dropout
from jaxcodec.training import loop, speech


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
  folder = tmp_path_factory.mktemp("speech")
  rng = np.random.default_rng(0)
  rows = ["file,split,seconds,text"]
  for i, (seconds, text) in enumerate([(0.5, "A Cab"), (0.7, "it's"), (0.9, ""), (2.0, "far")]):
    soundfile.write(folder / f"{i}.wav", rng.normal(0, 0.1, int(seconds * 16_000)), 16_000)
    rows.append(f"{i}.wav,train,{seconds},{text}")
  (folder / "table.csv").write_text("\n".join(rows) + "\n")
  return folder


def config_of(folder):
  config = tiny()
  table = str(folder / "table.csv")
  data = dataclasses.replace(config.data, sources=(str(folder),), table=table)
  return dataclasses.replace(config, data=data)


def test_recordings_with_text_that_fit_are_the_examples(spoken):
  config = config_of(spoken)
  data = pipeline.dataset(config.data, config.model, batch_size=4, num_steps=1, seed=0)
  batch = data[0]
  assert (batch.x.shape, batch.length.shape, batch.labels.shape) == ((4, 16_000), (4,), (4, 10))
  assert set(batch.length.tolist()) == {8000, 11_200}
  for x, length, labels in zip(*batch, strict=True):
    text = "".join(transcribed.LETTERS[label] for label in labels if label >= 0)
    assert text == {8000: "a cab", 11_200: "it's"}[int(length)]
    assert np.abs(x[:length]).max() > 0.1
    assert not x[length:].any()


def test_data_that_cannot_be_used_is_refused(spoken, tmp_path):
  config = config_of(spoken)

  def dataset(**changes):
    data = dataclasses.replace(config.data, **changes)
    return pipeline.dataset(data, config.model, batch_size=4, num_steps=1, seed=0)

  with pytest.raises(CodecError, match="no table of file, seconds, text"):
    dataset(table=str(tmp_path / "none.csv"))
  with pytest.raises(ValueError, match="has text for no recording"):
    dataset(seconds=0.1)
  with pytest.raises(ValueError, match=r"data\.letters=0 must be positive"):
    dataset(letters=0)


@pytest.mark.slow
def test_a_run_learns_and_its_recogniser_writes(spoken, tmp_path, capsys):
  run = tmp_path / "run"
  state = loop.run(config_of(spoken), run, quiet=True, devices=jax.devices()[:1])
  assert (int(state.step), int(state.skipped)) == (3, 0)
  loaded = load_recognizer(run)
  assert loaded.module == tiny().model
  assert loaded.symbols == transcribed.LETTERS
  jax.tree.map(np.testing.assert_array_equal, loaded.params, state.average)
  assert cli.main(["transcribe", str(spoken / "0.wav"), "--model", str(run)]) == 0
  found = capsys.readouterr()
  assert set(found.out.strip()) <= set(transcribed.LETTERS)
  assert "chunks of 0.16 s" in found.err
  assert cli.main(["transcribe", str(spoken / "0.wav"), "--model", str(spoken)]) == 1
  assert "config.json" in capsys.readouterr().err


def test_masks_are_as_many_and_as_wide_as_they_may_be():
  how = speech.SpecAugment(band_masks=2, bands=5, time_masks=3, share=0.1)
  length = np.array([200, 40, 7])
  mel = np.ones((3, 200, 20), np.float32)
  draw = jax.jit(lambda key: speech.augmented(key, mel, length, how))
  found = np.stack([draw(jax.random.key(seed)) for seed in range(40)]) == 0
  # A mask over bands hides them in all frames, one over time all bands of some.
  bands, frames = found.all(axis=2), found.all(axis=3)
  np.testing.assert_array_equal(found, bands[:, :, None] | frames[..., None])
  assert bands.sum(axis=-1).max() <= 2 * 5
  assert (frames.sum(axis=-1) <= 3 * np.maximum(1, length // 10)).all()
  # Every band and every frame of the long row is hidden at some time, and none beyond a row's end.
  assert bands.any(axis=(0, 1)).all()
  assert frames[:, 0].any(axis=0)[:198].mean() > 0.9
  assert not frames[:, 1, 41:].any()
  assert not frames[:, 2, 8:].any()


@pytest.mark.slow
def test_dropout_is_of_training_alone_and_of_its_share():
  net = dataclasses.replace(tiny().model.config, dropout=0.5, head_dropout=0.5, num_layers=1)
  model = StatefulConformer(net)
  mel = np.random.default_rng(0).normal(size=(1, 9, net.bands)).astype(np.float32)
  given = mel, np.array([9]), np.array([[1, 2]]), 4, 1
  params = jax.jit(lambda: model.init(jax.random.key(0), *given))()["params"]
  run = jax.jit(lambda params, keys: model.apply({"params": params}, *given, rngs=keys))
  plain, *dropped = (
    run(params, keys) for keys in ({}, *({"dropout": jax.random.key(i)} for i in (1, 1, 2)))
  )
  assert plain == run(params, {})
  assert dropped[0] == dropped[1]
  for head in ("ctc", "transducer"):
    assert len({float(x[head]) for x in (plain, *dropped)}) == 3
  # Numbers that stay grow, so that the mean stays.
  x = np.ones((100, 100), np.float32)

  class Some(nn.Module):
    @nn.compact
    def __call__(self, x):
      return dropout(self, x, 0.3)

  y = np.asarray(Some().apply({}, x, rngs={"dropout": jax.random.key(0)}))
  np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-6)
  assert abs((y == 0).mean() - 0.3) < 0.02
