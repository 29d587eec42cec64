"""The README's five lines, as they are written, on a folder of sound files."""

import os
import pathlib
import platform
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from jaxcodec import terminal

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_lines_of_the_readme_train_code_export_and_evaluate(tmp_path):
  readme = (ROOT / "README.md").read_text()
  section = readme[readme.index("## Train your own") :]
  (block,) = re.findall(r"```sh\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
  lines = block.strip().splitlines()
  assert len(lines) == 5
  # The one change, as the README shows it for a first look.
  assert "--set num_steps=400" in section
  lines[0] += " --set num_steps=2"
  rng = np.random.default_rng(0)
  (tmp_path / "WAVS").mkdir()
  for path in (*(tmp_path / "WAVS" / f"{i}.wav" for i in range(3)), tmp_path / "talk.wav"):
    soundfile.write(path, rng.normal(0, 0.1, 24_000), 16_000)
  for package in ("configs", "launch", "jaxcodec", "pallas_kernels"):
    (tmp_path / package).symlink_to(ROOT / package)
  path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
  flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
  environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
  script = "set -ex\n" + "\n".join(lines)
  done = subprocess.run(
    ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-3000:]
  back, rate = soundfile.read(tmp_path / "back.wav")
  assert (back.shape, rate) == ((24_000,), 16_000)
  assert (tmp_path / "mine.safetensors").stat().st_size > 1e5
  assert "mine" in done.stdout


def test_a_tpu_is_looked_for_where_one_can_be(tmp_path):
  assert not terminal.may_have_tpu(tmp_path)
  device = tmp_path / "sys" / "bus" / "pci" / "devices" / "0000:00:05.0"
  device.mkdir(parents=True)
  (device / "vendor").write_text("0x1af4\n")
  assert not terminal.may_have_tpu(tmp_path)
  (device / "vendor").write_text("0x1ae0\n")
  assert terminal.may_have_tpu(tmp_path)
  (device / "vendor").unlink()
  (tmp_path / "dev" / "vfio").mkdir(parents=True)
  (tmp_path / "dev" / "vfio" / "vfio").touch()
  assert not terminal.may_have_tpu(tmp_path)
  (tmp_path / "dev" / "vfio" / "0").touch()
  assert terminal.may_have_tpu(tmp_path)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another")
def test_a_program_s_memory_is_kept_for_its_next_run():
  script = """
import resource
from jaxcodec import terminal
if {keep}:
  terminal.keep_freed_memory()
import jax, jax.numpy as jnp
step = jax.jit(lambda x: (x @ x.T) @ x)
x = jnp.ones((4000, 8))
faults = [0]
for _ in range(31):
  step(x).block_until_ready()
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(sorted(b - a for a, b in zip(faults, faults[1:]))[15])
"""
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
  faults = {}
  for keep in (False, True):
    # Of the median run: some find what is kept broken into by smaller things.
    command = [sys.executable, "-c", script.format(keep=keep)]
    done = subprocess.run(
      command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    faults[keep] = int(done.stdout)
  assert faults[True] < faults[False] / 10, faults
