"""Files that start a command elsewhere: as rendered, with their command run here by two."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import slurm
import soundfile
import yaml

from launch import starters

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMAND = ["python", "-m", "launch.train", "--config", "c.py", "--workdir", "w", "--distributed"]


def test_gke_gets_a_jobset_with_a_pod_for_every_host():
  text = starters.rendered("gke", "run-1", "v5e:4x8", "registry/jaxcodec:1", COMMAND)
  jobset = yaml.safe_load(text)
  job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
  assert (job["parallelism"], job["completions"]) == (8, 8)
  pod = job["template"]["spec"]
  assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x8"
  (container,) = pod["containers"]
  assert container["command"] == ["bash", "-c", " ".join(COMMAND)]
  assert container["resources"]["limits"]["google.com/tpu"] == 4


@pytest.mark.parametrize(("where", "topology"), [("tpu_vm", "v5p:2x2x4"), ("slurm", "gpu:4x8")])
def test_scripts_are_shell_and_hold_the_command(where, topology, tmp_path):
  path = tmp_path / "script.sh"
  path.write_text(starters.rendered(where, "run-1", topology, "", COMMAND))
  subprocess.run(["bash", "-n", str(path)], check=True)
  text = path.read_text()
  assert " ".join(COMMAND) in text
  assert ("v5p-32" if where == "tpu_vm" else "--nodes=4\n") in text


@pytest.mark.parametrize(
  ("changed", "said"),
  [
    ({"--name": "Run"}, "no name"),
    ({"--topology": "v9:2x2"}, "no topology"),
    ({"--image": ""}, "needs an --image"),
  ],
)
def test_a_wrong_call_ends_with_status_2(changed, said, capsys):
  call = {"--name": "run", "--topology": "v5e:2x4", "--image": "i"} | changed
  arguments = [part for pair in call.items() for part in pair]
  assert starters.main(["gke", *arguments, "--", *COMMAND]) == 2
  assert said in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_go_on_when_started_again(tmp_path):
  rng = np.random.default_rng(0)
  soundfile.write(tmp_path / "a.wav", rng.normal(0, 0.1, 2000), 8000)
  workdir = tmp_path / "run"
  command = [sys.executable, "-m", "launch.train", "--config", "tests/training/micro.py"]
  command += ["--workdir", str(workdir), "--set", f"data.sources={tmp_path}", "--distributed"]
  command += ["--set", "num_steps=60", "--set", "save_every=10"]
  script = starters.rendered("slurm", "run", "gpu:2x1", "", command)
  (line,) = re.findall(r"^srun --kill-on-bad-exit=1 (bash -c '.*')$", script, re.MULTILINE)

  def start(job: int) -> list[subprocess.Popen]:
    return slurm.start(["bash", "-c", f"exec {line}"], job)

  processes = start(os.getpid())
  while not (workdir / "checkpoints" / "20").exists():
    assert all(process.poll() is None for process in processes), processes[0].stderr.read()
    time.sleep(0.05)
  processes[1].send_signal(signal.SIGKILL)
  processes[1].communicate()
  # srun ends the others.
  processes[0].kill()
  processes[0].communicate()
  processes = start(os.getpid() + 1)
  said = [process.communicate(timeout=300)[1] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], said
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  assert len(lines) == 60
  assert (workdir / "checkpoints" / "60").is_dir()
