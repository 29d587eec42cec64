"""Prints docs/scaling.md's tables: steps compiled for slices of more and more chips.

    python benchmarks/scaling.py --config configs/dac_44khz.py --chip v5e --rows 1 --chips 1 4 16

Weak scaling has `--rows` rows on each chip; strong scaling, with `--batch`, that many in all. Each
step is compiled by the TPU compiler on a CPU (`launch.compile_check` says more of one); times are
those of a roofline, with no communication hidden behind computation. `--save FILE` keeps a line of
JSON for each slice, so that a table can be made in parts; `--table FILE` prints it. With `--plan`
each slice has a process, which ends before code is generated.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]

SLICES = {
  "v5e": {1: "1x1", 4: "2x2", 16: "4x4", 64: "8x8", 256: "16x16"},
  "v6e": {1: "1x1", 4: "2x2", 16: "4x4", 64: "8x8", 256: "16x16"},
  "v5p": {1: "1x1x1", 4: "2x2x1", 16: "2x2x4", 64: "4x4x4", 128: "4x4x8"},
}


def measured(config, name: str, **how: bool) -> dict:
  """A slice's figures for the table; `error` in their place if the step does not fit."""
  from jaxcodec.training import sizing, topology
  from jaxcodec.training.collectives import seconds

  start = time.perf_counter()
  place = topology.slice_of(name)
  row = {"slice": name, "chips": len(place.devices), "batch": config.batch_size}
  try:
    found = sizing.report(config, place, **how)
  except sizing.TooLarge as error:
    return row | {"error": str(error)}
  return row | {
    "memory": found.peak,
    "share": found.peak / found.hbm_bytes,
    "flops": found.flops,
    "milliseconds": 1e3 * found.seconds,
    "communication": found.communication,
    "examples": config.batch_size / found.seconds / len(place.devices),
    "sent": [(*one, 1e3 * seconds(one, place)) for one in found.sent],
    "compile_seconds": time.perf_counter() - start,
  }


def printed(rows: list[dict]) -> None:
  print(
    "| slice | batch | memory per chip | step | communication | examples/s per chip | efficiency |"
  )
  print("|---|---|---|---|---|---|---|")
  first: dict[str, float] = {}
  for row in rows:
    if "error" in row:
      print(f"| {row['slice']} | {row['batch']} | {row['error']} | | | | |")
      continue
    # Of the smallest slice of the generation on which the step fits.
    least = first.setdefault(row["slice"].split(":")[0], row["examples"])
    print(
      f"| {row['slice']} | {row['batch']} | {row['memory'] / 2**30:.2f} GiB, {row['share']:.0%} "
      f"| {row['milliseconds']:.2f} ms | {row['communication']:.1%} | {row['examples']:.1f} "
      f"| {row['examples'] / least:.1%} |"
    )


def saved(file: pathlib.Path) -> None:
  """Prints the table of what `--save` kept."""
  rows = [json.loads(line) for line in file.read_text().splitlines()]
  printed(sorted(rows, key=lambda row: (row["slice"].split(":")[0], row["chips"])))


def one_by_one(options) -> int:
  """A process for each slice, as a plan's compiler stops with its process alone."""
  with tempfile.TemporaryDirectory() as folder:
    file = options.save or pathlib.Path(folder) / "rows"
    again = [sys.executable, *sys.argv, "--save", str(file), "--chips"]  # The last ones count.
    statuses = [
      subprocess.run([*again, str(chips)], stdout=subprocess.DEVNULL, check=False).returncode
      for chips in options.chips
    ]
    if file.exists():
      saved(file)
  return max(statuses, key=abs)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  task = parser.add_mutually_exclusive_group(required=True)
  task.add_argument("--config", type=pathlib.Path)
  task.add_argument("--table", type=pathlib.Path)
  parser.add_argument("--chip", choices=tuple(SLICES), default="v5e")
  parser.add_argument("--chips", type=int, nargs="+", default=[1, 4, 16, 64, 256])
  parser.add_argument("--rows", type=int, default=1, help="on each chip: weak scaling")
  parser.add_argument("--batch", type=int, help="in all: strong scaling")
  parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
  parser.add_argument("--quick", action="store_true", help="as of launch.compile_check")
  parser.add_argument("--plan", action="store_true", help="as of launch.compile_check")
  parser.add_argument("--save", type=pathlib.Path)
  options = parser.parse_args()
  if options.table is not None:
    saved(options.table)
    return 0
  if options.plan and len(options.chips) > 1:
    return one_by_one(options)
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  sys.path.insert(0, str(ROOT))
  from launch import settings

  config = settings.changed(settings.load(options.config), options.set)
  rows = []
  for chips in options.chips:
    batch = options.batch or options.rows * chips
    sized = dataclasses.replace(config, batch_size=batch)
    name = f"{options.chip}:{SLICES[options.chip][chips]}"
    rows.append(measured(sized, name, quick=options.quick, plan=options.plan))
    print(f"{rows[-1]}", file=sys.stderr, flush=True)
    if options.save is not None:
      with options.save.open("a") as file:
        file.write(json.dumps(rows[-1]) + "\n")
  print(f"{config.name}, {options.chip}, {'strong' if options.batch else 'weak'} scaling")
  printed(rows)
  return 0


if __name__ == "__main__":
  status = main()
  sys.stdout.flush()
  os._exit(status)
