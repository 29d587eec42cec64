"""Compiles a configuration's step for a TPU slice on a machine without TPUs, and says if it fits.

Command: python -m launch.compile_check --config configs/X.py --topology v5e:16x16 \\
  [--set a.b=c ...] [--plan] [--quick]

Needs `jax[tpu]`, which brings the TPU compiler. Exit status 1 says that the step does not fit, with
the setting with which it would; 2 that the call is wrong.
"""

import os
import pathlib
import sys

from jaxcodec import terminal


def main(arguments: list[str] | None = None) -> int:
  """Runs the command with `arguments`, `sys.argv` if None, and returns its exit status."""
  parser = terminal.Parser(
    prog="launch.compile_check", description="Compiles a step for a TPU slice."
  )
  parser.add_argument("--config", type=pathlib.Path, required=True, help="a file of configs/")
  parser.add_argument("--topology", required=True, help="such as v5e:2x2, v5p:4x4x4, v6e:16x16")
  parser.add_argument(
    "--set", action="append", default=[], metavar="FIELD=VALUE", help="such as batch_size=256"
  )
  parser.add_argument(
    "--plan", action="store_true", help="stop before code is generated: a tenth of the time"
  )
  parser.add_argument(
    "--quick", action="store_true", help="less time; memory and bytes come out larger"
  )
  try:
    options = parser.parse_args(arguments)
    # The compiler needs no accelerator, and must not wait for one.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from jaxcodec.training import sizing, tasks, topology
    from launch import settings

    config = settings.changed(settings.load(options.config), options.set)
    tasks.check(config)
    place = topology.slice_of(options.topology)
    firsts = sorted(tasks.of(config).steps)
    how = {"quick": options.quick, "plan": options.plan}
    for first in firsts:
      stage = "" if len(firsts) == 1 else f", steps from {first} on"
      try:
        found = sizing.report(config, place, at=first, **how)
      except sizing.TooLarge as error:
        print(f"{config.name} on {place.name}{stage} does not fit: {error}")
        remedy = sizing.smaller(config, place, at=first, **how)
        if remedy is None:
          print("no smaller batch, remat and fsdp together make it fit: take more chips")
        else:
          settings_of_it = " ".join(f"--set {part}" for part in remedy[0].split())
          print(f"it fits with {settings_of_it}:")
          print(_table(remedy[1]))
        return 1
      chips = f"{place.name} ({len(place.devices)} chips)"
      print(f"{config.name} on {chips}, batch {config.batch_size}{stage}")
      print(_table(found), flush=True)
  except ValueError as error:
    print(f"launch.compile_check: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
  return 0


def _table(found) -> str:
  def size(count: float) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20)):
      if count >= 2**power:
        return f"{count / 2**power:.2f} {unit}"
    return f"{count / 2**10:.1f} KiB"

  from jaxcodec.training.collectives import seconds

  peak = f"{size(found.peak)} of {size(found.hbm_bytes)}, {found.peak / found.hbm_bytes:.0%}"
  flops = f"{found.traced / 1e9:.3f} GFLOP"
  if found.flops > 1.1 * found.traced:
    flops += f", {found.flops / 1e9:.3f} as compiled"
  lines = [
    ("parameters", size(found.parameters)),
    ("optimizer", size(found.optimizer)),
    ("averages and statistics", size(found.state - found.parameters - found.optimizer)),
    ("activations", size(found.activations)),
    ("peak memory", peak),
    ("work", f"{flops}, {size(found.bytes_accessed)} accessed"),
  ]
  for one in found.sent:
    text = f"{one.calls} of {one.group} chips, {size(one.num_bytes)}"
    lines.append((one.kind, f"{text}, {1e3 * seconds(one, found.place):.3f} ms"))
  lines += [
    ("step by roofline", f"{1e3 * found.seconds:.3f} ms, communication {found.communication:.1%}"),
    ("verdict", "fits"),
  ]
  width = max(len(name) for name, _ in lines)
  return "\n".join(f"  {name:{width}}  {text}" for name, text in lines)


if __name__ == "__main__":
  status = main()
  sys.stdout.flush()
  # A plan's thread must not hold the process, nor run while it is taken down.
  os._exit(status)
