"""What the compiler for an H200 says of the GPU kernels, at the sizes of the goals; nothing runs.

Command: python benchmarks/gpu_compiler.py [--only NAME ...] [--size TEXT]

Needs jax's plugin for CUDA and its assembler, but no GPU: pip install jax-cuda12-plugin
jax-cuda12-pjrt nvidia-cuda-nvcc-cu12, of the installed jax's version. Prints a program's threads
and shared memory, of the 227 KB that it can have, and a thread's registers, of 255.
"""

import argparse
import functools
import glob
import os
import pathlib
import re
import subprocess
import sys
import tempfile

FOLDER = tempfile.TemporaryDirectory()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_dump_to={FOLDER.name} --xla_dump_emitter_re=ptx"
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]


def report(case, function) -> None:
  import gpu_topologies as topologies
  import jax

  for path in glob.glob(f"{FOLDER.name}/*"):
    os.unlink(path)
  shapes = jax.eval_shape(functools.partial(case.make, "kernel"))
  topologies.compile_for_h200(function, *shapes)
  sequence = "".join(pathlib.Path(p).read_text() for p in glob.glob(f"{FOLDER.name}/*thunk_seq*"))
  for ptx in sorted(glob.glob(f"{FOLDER.name}/*.ptx")):
    for name in re.findall(r"\.entry (\w+)", pathlib.Path(ptx).read_text()):
      pattern = rf" {name} grid: .*threads: \[(\d+).*shared_memory: (\d+)"
      if not case.op.startswith(name.split("_d")[0]) or not (found := re.search(pattern, sequence)):
        continue
      said = assembled(ptx)
      registers = re.search(r"Used (\d+) registers", said)
      spilled = re.search(r"(\d+) bytes spill stores", said)
      threads, shared = (int(x) for x in found.groups())
      figures = f"{threads} | {shared / 1024:.0f} | {registers[1]} | {spilled[1]}"  # type: ignore[index]
      print(f"| {case.op} | {case.size} | {name} | {figures} |", flush=True)


def assembled(ptx: str) -> str:
  import nvidia

  (assembler,) = (p for root in nvidia.__path__ for p in glob.glob(f"{root}/*/bin/ptxas"))
  command = [assembler, "-v", "-arch=sm_90a", "-o", "/dev/null", ptx]
  return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", nargs="*")
  parser.add_argument("--size", default="", help="part of a size; all that have it")
  options = parser.parse_args()
  from kernel_cases import on_gpu

  print("| op | size | kernel | threads | shared memory, KB | registers | bytes spilled |")
  print("|---|---|---|---:|---:|---:|---:|")
  for case in on_gpu.cases():
    if (not options.only or case.op in options.only) and options.size in case.size:
      report(case, case.forms["kernel"][0])


if __name__ == "__main__":
  main()
