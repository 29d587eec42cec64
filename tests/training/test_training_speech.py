"""A recogniser's run: speech and text from a folder and a table, three steps, and its text."""

import dataclasses

import jax
import numpy as np
import pytest
import soundfile

from configs.stateful_conformer import tiny
from jaxcodec import cli
from jaxcodec.data import pipeline, transcribed
from jaxcodec.errors import CodecError
from jaxcodec.hub.recognizer import load_recognizer
from jaxcodec.training import loop


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
