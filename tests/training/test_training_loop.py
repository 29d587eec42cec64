"""Whole runs: killed, stopped and resumed ones end as one that was not; a run is a codec."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import micro
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

import jaxcodec
from jaxcodec import CodecError, cli
from jaxcodec.training import loop

ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
  return micro.write_sounds(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sounds):
  """A run to its end, as a user starts one."""
  workdir = tmp_path_factory.mktemp("finished")
  assert start(workdir, sounds).wait() == 0
  return workdir


def start(workdir, sounds) -> subprocess.Popen:
  config = ROOT / "tests" / "training" / "micro.py"
  command = [sys.executable, "-m", "launch.train", "--config", str(config)]
  command += ["--workdir", str(workdir), "--set", f"data.sources={sounds}"]
  # One device: with eight on a busy machine XLA's collectives may wait too long for each other.
  environment = os.environ | {"XLA_FLAGS": ""}
  return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env=environment)


def steps_logged(workdir) -> int:
  path = workdir / "metrics.jsonl"
  return path.read_text().count("\n") if path.exists() else 0


def wait_for(workdir, process, steps: int) -> None:
  while steps_logged(workdir) < steps:
    assert process.poll() is None, "the run ended before it could be stopped"
    time.sleep(0.01)


def state_of(workdir):
  with ocp.training.Checkpointer(workdir / "checkpoints") as checkpointer:
    assert checkpointer.latest.step == 300
    described = checkpointer.metadata(None).metadata
    # As NumPy arrays, whatever devices wrote them.
    wanted = jax.tree.map(
      lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), described
    )
    return checkpointer.load(None, wanted)


def test_a_run_that_is_killed_and_stopped_ends_bitwise_as_one_that_is_not(
  finished, sounds, tmp_path
):
  process = start(tmp_path, sounds)
  wait_for(tmp_path, process, 70)
  process.kill()
  process.wait()
  process = start(tmp_path, sounds)
  wait_for(tmp_path, process, 150)
  process.send_signal(signal.SIGTERM)
  assert process.wait() == 0
  stopped = steps_logged(tmp_path)
  assert 150 <= stopped < 300
  assert start(tmp_path, sounds).wait() == 0
  jax.tree.map(np.testing.assert_array_equal, state_of(tmp_path), state_of(finished))
  logs = [
    [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for path in (tmp_path, finished)
  ]
  for mine, theirs in zip(*logs, strict=True):
    del mine["steps_per_second"], theirs["steps_per_second"]
    assert mine == theirs


def test_a_run_is_a_codec_and_exports_as_one_file(finished, tmp_path):
  codec = jaxcodec.load(finished)
  assert codec.name == "micro"
  assert int(codec.prior.sum()) > 0
  file = tmp_path / "micro.safetensors"
  assert cli.main(["export", str(finished), str(file)]) == 0
  again = jaxcodec.load(file)
  jax.tree.map(np.testing.assert_array_equal, again, codec)
  x = micro.batch(rows=1)
  data = jaxcodec.compress(again, x)
  assert jaxcodec.decompress(data, codec).shape == x.shape
  file.write_bytes(file.read_bytes()[:-10])
  with pytest.raises(CodecError):
    jaxcodec.load(file)


def test_a_finished_run_has_nothing_left_to_do_and_refuses_another_codec(
  finished, sounds, tmp_path
):
  config = micro.get_config()
  data = micro.with_sounds(config, sounds).data
  other = micro.config(codec=config.codec.clone(codebook_size=16), data=data)
  with pytest.raises(ValueError, match=r"another codec: module.codebook_size is 8 there, 16 here"):
    loop.run(other, finished, quiet=True)
  empty = tmp_path / "empty"
  empty.mkdir()
  (empty / "config.json").write_text((finished / "config.json").read_text())
  with pytest.raises(CodecError, match="no checkpoint yet"):
    jaxcodec.load(empty)
  kept = sorted(int(path.name) for path in (finished / "checkpoints").iterdir())
  # The last two, and the best of all.
  assert kept[-2:] == [280, 300]
  assert len(kept) <= 3


def test_numbers_that_stay_infinite_stop_the_run(sounds, tmp_path):
  def explode(x, y):
    return ((x - y) * np.inf).sum()

  losses = micro.config().losses
  losses = type(losses)(l1=1.0, perceptual=1.0, perceptual_loss=explode)
  config = micro.with_sounds(micro.config(losses=losses, stop_after=3, num_steps=9), sounds)
  with pytest.raises(CodecError, match=r"3 steps in a row were not finite, .* loss perceptual"):
    loop.run(config, tmp_path, quiet=True, devices=jax.devices()[:1])
