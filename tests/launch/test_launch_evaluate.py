"""A dataset measured on eight devices and on one."""

import json
import os
import sys

import jax
import micro_codec
import numpy as np
import pytest
import slurm
import soundfile

from jaxcodec import metrics
from jaxcodec.bitstream import compress, decompress
from jaxcodec.data import sources
from launch.evaluate import evaluate


@pytest.fixture(scope="module")
def waves():
  rng = np.random.default_rng(0)
  return [rng.normal(0, 0.1, (size, 1)).astype(np.float32) for size in (2100, 2200, 2500)]


@pytest.fixture(scope="module")
def sounds(waves, tmp_path_factory):
  """Three sounds and a damaged one."""
  folder = tmp_path_factory.mktemp("sounds")
  for i, wave in enumerate(waves):
    soundfile.write(folder / f"{i}.wav", wave, 8000, subtype="FLOAT")
  (folder / "bad.wav").write_bytes(b"RIFF, it says")
  return folder


def test_figures_are_those_of_one_device_and_of_each_file_alone(mesh, waves, sounds):
  del mesh  # Eight devices are there.
  source = sources.open_source(sounds, sources.SOUNDS)
  codec = micro_codec.codec()
  one, eight = (evaluate(codec, source, devices=jax.devices()[:n]) for n in (1, 8))
  assert (one["files"], one["skipped"]) == (3, 1)
  for name in one:
    np.testing.assert_allclose(eight[name], one[name], rtol=1e-4, err_msg=name)
  coded = [decompress(compress(codec, wave[None]), codec)[0] for wave in waves]
  alone = [metrics.si_sdr(wave, y) for wave, y in zip(waves, coded, strict=True)]
  assert one["si_sdr"] == pytest.approx(np.mean(alone), abs=1e-3)
  # 2 codebooks of 3 bits, 2000 frames a second; the last frames are whole.
  assert one["kbps"] == pytest.approx(12.0, rel=1e-2)


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(sounds, tmp_path):
  micro_codec.save(tmp_path / "codec")
  command = [sys.executable, "-m", "launch.evaluate", "--codec", str(tmp_path / "codec")]
  command += ["--dataset", str(sounds), "--json", str(tmp_path / "two.json"), "--distributed"]
  for process in slurm.start(command, os.getpid()):
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error[-2000:]
  found = json.loads((tmp_path / "two.json").read_text())
  source = sources.open_source(sounds, sources.SOUNDS)
  alone = evaluate(micro_codec.codec(), source, devices=jax.devices()[:1])
  assert (found["files"], found["skipped"]) == (3, 1)
  for name in alone:
    np.testing.assert_allclose(found[name], alone[name], rtol=1e-4, err_msg=name)
