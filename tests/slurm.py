"""Two processes on this machine that find each other as those of a SLURM job do."""

import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]


def start(command: list[str], job: int) -> list[subprocess.Popen]:
  """Starts `command` twice, as srun does; each learns from its environment where it is.

  Args:
    job: a number that no other job on this machine has; the port follows from it.
  """
  slurm = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
  slurm |= {"SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_JOB_NUM_NODES": "2"}
  paths = [ROOT, ROOT / "tests", ROOT / "tests" / "training"]
  flags = {
    "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1",
    "PYTHONPATH": os.pathsep.join(map(str, paths)),
  }
  return [
    subprocess.Popen(
      command,
      cwd=ROOT,
      env=os.environ | slurm | flags | {"SLURM_PROCID": str(i)},
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
