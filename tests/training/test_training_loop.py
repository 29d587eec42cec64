"""Whole runs: killed, stopped and resumed ones end as one that was not; a run is a codec."""

import collections
import gzip
import io
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
import soundfile
from orbax.checkpoint import v1 as ocp
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

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
  """A run to its end, as a user starts one, with all that can be watched."""
  workdir = tmp_path_factory.mktemp("finished")
  with open(workdir / "stderr", "w") as stderr:
    process = start(workdir, sounds, "--profile", "--set", "samples_every=150", stderr=stderr)
    assert process.wait() == 0
  return workdir


def start(workdir, sounds, *more: str, stderr=subprocess.DEVNULL) -> subprocess.Popen:
  config = ROOT / "tests" / "training" / "micro.py"
  command = [sys.executable, "-m", "launch.train", "--config", str(config)]
  command += ["--workdir", str(workdir), "--set", f"data.sources={sounds}", *more]
  # One device: with eight on a busy machine XLA's collectives may wait too long for each other.
  flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
  environment = os.environ | {"XLA_FLAGS": flags}
  # As a user has it; two runs on one machine must not hide what libtpu says to the first.
  del environment["JAX_PLATFORMS"]
  environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
  return subprocess.Popen(command, cwd=ROOT, stderr=stderr, env=environment)


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


def test_sigterm_to_one_of_two_processes_saves_in_both_at_one_step(sounds, tmp_path):
  more = (str(tmp_path), "--set", f"data.sources={sounds}", "--set", "num_steps=100000")
  more += ("--set", "samples_every=10", "--set", "save_every=100000")
  processes = micro.two_processes(lambda _: more, devices=1)
  wait_for(tmp_path, processes[0], 20)
  processes[1].send_signal(signal.SIGTERM)
  for process in processes:
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error[-2000:]
  steps = [
    json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  # One of them writes the log, and nothing came after the checkpoint.
  assert steps == list(range(1, len(steps) + 1))
  (saved,) = (tmp_path / "checkpoints").iterdir()
  assert int(saved.name) == len(steps)
  assert (tmp_path / "samples" / "00000020_decoded.wav").exists()


def events_of(workdir) -> dict[str, list]:
  """What TensorBoard's file holds, by tag: (step, value)."""
  (path,) = (workdir / "tensorboard").iterdir()
  data, found = path.read_bytes(), collections.defaultdict(list)
  while data:
    # A record is its length, a checksum, itself, a checksum.
    end = 12 + int.from_bytes(data[:8], "little")
    event = Event.FromString(data[12:end])
    for value in event.summary.value:
      found[value.tag].append((event.step, value))
    data = data[end + 4 :]
  return found


def test_a_run_shows_sounds_spectrograms_and_the_use_of_codes(finished):
  names = {f"{step:08}_{kind}.wav" for step in (150, 300) for kind in ("original", "decoded")}
  assert {path.name for path in (finished / "samples").iterdir()} == names
  events = events_of(finished)
  assert {"l1", "objective", "codebook_use", "gradient_norm"} <= set(events)
  assert len(events["l1"]) == 300
  for kind in ("original", "decoded"):
    wave, rate = soundfile.read(finished / "samples" / f"00000300_{kind}.wav")
    assert (wave.shape, rate) == ((64,), 8000)
    assert 0.001 < np.abs(wave).mean() < 0.5
    assert [step for step, _ in events[kind]] == [150, 300]
    sound, _ = soundfile.read(io.BytesIO(events[kind][1][1].audio.encoded_audio_string))
    np.testing.assert_allclose(sound.squeeze(), wave, atol=1e-3)
  for tag in ("spectrograms", "codes"):
    assert [step for step, _ in events[tag]] == [150, 300]
    shown = Image.open(io.BytesIO(events[tag][1][1].image.encoded_image_string))
    # More than an empty frame: curves, or a picture in many colours.
    assert len(shown.convert("RGB").getcolors(1 << 20)) > 20


def test_a_trace_of_three_steps_opens(finished):
  (path,) = (finished / "profile").rglob("*.xplane.pb")
  trace = jax.profiler.ProfileData.from_file(str(path))
  names = [event.name for plane in trace.planes for line in plane.lines for event in line.events]
  assert sum(name == "PjitFunction(train_step)" for name in names) >= 3
  (viewer,) = (finished / "profile").rglob("*.trace.json.gz")
  assert json.loads(gzip.decompress(viewer.read_bytes()))["traceEvents"]


def test_a_run_says_its_steps_and_nothing_else(finished):
  lines = (finished / "stderr").read_text().splitlines()
  assert [line for line in lines if line and not line.startswith("step ")] == []
  assert sum(line.startswith("step ") for line in lines) == 300


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
