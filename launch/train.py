"""Trains a codec.

Command: python -m launch.train --config configs/X.py --workdir DIR [--set a.b=c ...] [--profile]

The same command on a laptop, a GPU and every host of a pod (`--distributed` there). A run whose
directory holds a checkpoint goes on from it. SIGTERM saves and ends with exit status 0; 1 says
that data cannot be used or numbers are not finite, 2 that the call is wrong, found before anything
is compiled.
"""

import argparse
import pathlib
import sys

from jaxcodec import terminal
from jaxcodec.errors import CodecError


def main(arguments: list[str] | None = None) -> int:
  """Runs the command with `arguments`, `sys.argv` if None, and returns its exit status."""
  terminal.look_for_no_absent_accelerator()
  terminal.keep_freed_memory()
  try:
    options = _parser().parse_args(arguments)
    if options.distributed:
      from launch import processes

      processes.join()
    from launch import settings

    config = settings.changed(settings.load(options.config), options.set)
  except (ValueError, CodecError) as error:
    return _fail(2, error)
  from jaxcodec.training import loop

  try:
    loop.run(config, options.workdir, profile=options.profile)
  except ValueError as error:
    return _fail(2, error)
  except CodecError as error:
    return _fail(1, error)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = terminal.Parser(prog="launch.train", description="Trains a codec.")
  parser.add_argument("--config", type=pathlib.Path, required=True, help="a file of configs/")
  parser.add_argument("--workdir", type=pathlib.Path, required=True, help="the run's directory")
  parser.add_argument(
    "--set", action="append", default=[], metavar="FIELD=VALUE", help="such as data.sources=DIR"
  )
  parser.add_argument("--profile", action="store_true", help="write a trace of a few steps")
  parser.add_argument("--distributed", action="store_true", help="one of several processes")
  return parser


def _fail(status: int, error: object) -> int:
  print(f"launch.train: {' '.join(str(error).split())}", file=sys.stderr)
  return status


if __name__ == "__main__":
  sys.exit(main())
