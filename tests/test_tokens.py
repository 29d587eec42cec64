"""A dataset as codes: each example once, whatever was killed, and readable by others."""

import json
import os
import pathlib
import random
import subprocess
import sys
import time

import jax
import micro_codec
import numpy as np
import pytest
import soundfile

from jaxcodec import chunked, tokens
from jaxcodec.data import sources
from jaxcodec.errors import CodecError
from launch import tokenize

HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def codec():
  return micro_codec.codec()


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
  """Thirty sounds for batches of 128 and 256 samples, one of them damaged and one empty."""
  folder = tmp_path_factory.mktemp("sounds")
  rng = np.random.default_rng(0)
  for i in range(30):
    size = (1 + i % 2) * rng.integers(98, 129)
    soundfile.write(folder / f"{i:02}.wav", rng.normal(0, 0.3, size), 8000)
  (folder / "07.wav").write_bytes(b"RIFF, it says")
  soundfile.write(folder / "21.wav", np.zeros(0), 8000)
  return folder


def read(out: pathlib.Path) -> dict[str, np.ndarray]:
  """As docs/scaling.md shows."""
  import tensorflow_datasets as tfds

  records = tfds.builder_from_directory(out).as_data_source(split="train")
  found = [(pathlib.Path(os.fsdecode(r["name"])).name, r["codes"]) for r in records]
  names = [name for name, _ in found]
  assert len(set(names)) == len(names)
  return dict(found)


def test_each_example_has_the_codes_that_it_has_alone(codec, sounds, tmp_path):
  source = sources.open_source(sounds, sources.SOUNDS)
  for process in (1, 0):
    tokens.write(codec, source, tmp_path, shard_size=4, process=process, processes=2)
  found = read(tmp_path)
  assert sorted(found) == [f"{i:02}.wav" for i in range(30) if i not in (7, 21)]
  frames = chunked.chunk_frames(codec, 0.2)
  for name in ("00.wav", "13.wav", "29.wav"):
    wave, _ = soundfile.read(sounds / name, dtype="float32", always_2d=True)
    blocks = chunked.encode_blocks(codec, [wave[None]], frames)
    alone = np.concatenate([codes[0] for codes, _ in blocks])
    np.testing.assert_array_equal(found[name], alone)
    assert all(len(np.unique(stage)) > 3 for stage in alone.T)
  skipped = json.loads((tmp_path / "skipped.json").read_text())
  assert [pathlib.Path(name).name for name in skipped] == ["07.wav", "21.wav"]
  # Nothing is left to do, and other codes do not mix with these.
  assert tokens.write(codec, source, tmp_path, shard_size=4).total == 0
  with pytest.raises(CodecError, match="shard_size is 4 there, 5 here"):
    tokens.write(codec, source, tmp_path, shard_size=5)


def test_a_wrong_call_ends_with_status_2_and_unusable_data_with_1(sounds, tmp_path, capsys):
  call = ["--codec", "speech-16khz", "--out", str(tmp_path / "out"), "--dataset"]
  assert tokenize.main([*call, str(tmp_path / "nothing")]) == 1
  assert tokenize.main([*call, str(sounds), "--process", "2", "--processes", "2"]) == 2
  assert tokenize.main([*call, str(sounds), "--bitrate", "7"]) == 2
  assert capsys.readouterr().err.count("\n") == 3
  broken = tmp_path / "broken"
  broken.mkdir()
  (broken / "a.wav").write_bytes(b"RIFF")
  assert tokenize.main([*call, str(broken)]) == 1
  assert "none of 1 sounds could be read: see" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_killed_at_random_moments_make_each_example_once(codec, sounds, tmp_path):
  out, draw = tmp_path / "out", random.Random(0)
  micro_codec.save(tmp_path / "codec")
  command = [sys.executable, "-m", "launch.tokenize", "--codec", str(tmp_path / "codec")]
  command += ["--dataset", str(sounds), "--out", str(out), "--shard-size", "1", "--processes", "2"]

  def start(process: int):
    return subprocess.Popen([*command, "--process", str(process)], cwd=HERE.parent)

  def shards() -> int:
    return len(list(out.glob("*array_record*")))

  running = [start(0), start(1)]
  kills = 0
  while any(process.poll() is None for process in running):
    seen = shards()
    while shards() == seen and any(process.poll() is None for process in running):
      time.sleep(0.01)
    victim = draw.randrange(2)
    if kills < 4 and running[victim].poll() is None:
      time.sleep(draw.uniform(0, 0.02))
      running[victim].kill()
      running[victim].wait()
      running[victim] = start(victim)
      kills += 1
  assert [process.returncode for process in running] == [0, 0]
  assert kills >= 2
  source = sources.open_source(sounds, sources.SOUNDS)
  tokens.write(codec, source, tmp_path / "whole", shard_size=30)
  jax.tree.map(np.testing.assert_array_equal, read(out), read(tmp_path / "whole"))
