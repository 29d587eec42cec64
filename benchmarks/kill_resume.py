"""Kills a run at random moments and compares its end with that of a run that was let alone.

    python benchmarks/kill_resume.py [--kills 20] [--config tests/training/micro.py]

Each kill is SIGKILL, after a random number of the run's new steps, however fast they are; every
other one waits for a checkpoint that is being written. Prints each kill, how many hit a save, and
whether each array of the last checkpoint is the same to the bit. The default configuration has
every part but discriminators.
"""

import argparse
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import soundfile
from orbax.checkpoint import v1 as ocp

from jaxcodec import terminal

ROOT = pathlib.Path(__file__).resolve().parents[1]


def start(config: str, workdir: pathlib.Path, sounds: pathlib.Path) -> subprocess.Popen:
  command = [sys.executable, "-m", "launch.train", "--config", config, "--workdir", str(workdir)]
  environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(sounds / "cache")}
  environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  command += ["--set", f"data.sources={sounds}"]
  return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def logged(workdir: pathlib.Path) -> int:
  path = workdir / "metrics.jsonl"
  return path.read_text().count("\n") if path.exists() else 0


def saving(workdir: pathlib.Path) -> bool:
  return any("tmp" in path.name for path in (workdir / "checkpoints").glob("*"))


def state_of(workdir: pathlib.Path):
  with ocp.training.Checkpointer(workdir / "checkpoints") as checkpointer:
    described = checkpointer.metadata(None).metadata
    # As NumPy arrays, whatever devices wrote them.
    wanted = jax.tree.map(
      lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), described
    )
    return checkpointer.latest.step, checkpointer.load(None, wanted)


def moment(process, workdir: pathlib.Path, new_steps: int, in_save: bool) -> bool:
  """Waits for so many new steps, and if wanted for a save after them; False if the run ended."""
  before = logged(workdir)
  # A resumed run cuts the log back to its checkpoint first.
  first = None
  while process.poll() is None:
    now = logged(workdir)
    if first is None and now != before:
      first = now
    if first is not None and now >= first + new_steps and (not in_save or saving(workdir)):
      return True
    time.sleep(0.001)
  return False


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--config", default="tests/training/micro.py")
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  draw = random.Random(options.seed)
  with tempfile.TemporaryDirectory() as folder:
    sounds, alone, killed = (pathlib.Path(folder) / name for name in ("sounds", "alone", "killed"))
    sounds.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
      soundfile.write(sounds / f"{i}.wav", rng.normal(0, 0.1, 4000), 8000)
    if start(options.config, alone, sounds).wait():
      raise SystemExit("the run that is let alone failed")
    during_saves, steps = 0, []
    for number in range(options.kills):
      process = start(options.config, killed, sounds)
      if not moment(process, killed, draw.randrange(30), in_save=bool(number % 2)):
        print(f"the run ended before kill {number + 1}")
        break
      during_saves += saving(killed)
      process.kill()
      process.wait()
      steps.append(logged(killed))
      print(f"kill {number + 1} after step {steps[-1]}", flush=True)
    print(f"{len(steps)} kills, {during_saves} of them during a save, after steps {steps}")
    if start(options.config, killed, sounds).wait():
      raise SystemExit("the last resume failed")
    (step, wanted), (other, found) = state_of(alone), state_of(killed)
    same = jax.tree.map(np.array_equal, wanted, found)
    assert jax.tree.structure(wanted) == jax.tree.structure(found)
    differing = [path for path, good in jax.tree_util.tree_leaves_with_path(same) if not good]
    print(f"steps {step} and {other}: {len(jax.tree.leaves(same))} arrays, {len(differing)} differ")
    return int(step != other or bool(differing))


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  sys.exit(main())
