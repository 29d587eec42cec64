"""Turns a dataset of sounds into codes: ArrayRecord shards that tensorflow-datasets reads.

Command: python -m launch.tokenize --codec C --dataset D --out DIR [--bitrate N]

D is a folder, a tar, or a directory of tensorflow-datasets: what `launch.prepare_data` made, or one
in ArrayRecord with a feature `Audio`. On every host of a pod add `--distributed`; elsewhere
`--process I --processes N` shares the work. A command that was killed goes on when it is given
again. Exit status 1 says that data or codec cannot be used, 2 that the call is wrong.
"""

import pathlib
import sys

from jaxcodec import terminal
from jaxcodec.errors import CodecError


def main(arguments: list[str] | None = None) -> int:
  """Runs the command with `arguments`, `sys.argv` if None, and returns its exit status."""
  terminal.look_for_no_absent_accelerator()
  parser = terminal.Parser(prog="launch.tokenize", description="A dataset into codes.")
  parser.add_argument("--codec", required=True, help="a name, directory or file, as for `load`")
  parser.add_argument("--dataset", type=pathlib.Path, required=True, help="folder, tar or dataset")
  parser.add_argument("--out", type=pathlib.Path, required=True, help="the shards' directory")
  parser.add_argument("--bitrate", type=int, help="bit/s; the codec's highest unless given")
  parser.add_argument("--shard-size", type=int, default=256, help="examples of a shard")
  parser.add_argument("--threads", type=int, help="that read; else 4, or all cores")
  parser.add_argument("--process", type=int, default=0, help="which of the processes this one is")
  parser.add_argument("--processes", type=int, default=1)
  parser.add_argument("--distributed", action="store_true", help="one of the hosts of a pod")
  try:
    options = parser.parse_args(arguments)
    from jaxcodec import tokens
    from jaxcodec.data import sources
    from jaxcodec.hub.load import load_sound

    process, processes = _place(options)
    if options.shard_size < 1 or (options.threads is not None and options.threads < 1):
      raise ValueError("--shard-size and --threads must be at least 1")
    source = sources.open_source(options.dataset, sources.SOUNDS)
    codec = load_sound(options.codec)
    with _Shown() as shown:
      end = tokens.write(
        codec,
        source,
        options.out,
        bitrate=options.bitrate,
        shard_size=options.shard_size,
        process=process,
        processes=processes,
        threads=options.threads,
        progress=shown,
      )
  except ValueError as error:
    return _fail(2, error)
  except CodecError as error:
    return _fail(1, error)
  print(
    f"{options.out}: {end.examples} examples, {end.seconds:.0f} s of sound at "
    f"{end.speed:.0f} times real time, {end.skipped} skipped"
  )
  return 0


def _place(options) -> tuple[int, int]:
  if options.distributed:
    import jax

    from launch import processes

    processes.join()
    return jax.process_index(), jax.process_count()
  if not 0 <= options.process < options.processes:
    raise ValueError(f"--process {options.process} is none of {options.processes}")
  return options.process, options.processes


class _Shown:
  """A bar in a terminal; elsewhere a line every half a minute."""

  def __enter__(self):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"))
    self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    self._bar.start()
    self._task = self._bar.add_task("", total=None)
    self._said = 0.0
    return self

  def __call__(self, state) -> None:
    text = f"{state.speed:.0f} times real time, {state.skipped} skipped"
    self._bar.update(self._task, completed=state.examples, total=state.total, description=text)
    if self._bar.disable and state.elapsed > self._said + 30:
      self._said = state.elapsed
      print(f"{state.examples} of {state.total}, {text}", file=sys.stderr, flush=True)

  def __exit__(self, *_):
    self._bar.stop()


def _fail(status: int, error: object) -> int:
  print(f"launch.tokenize: {' '.join(str(error).split())}", file=sys.stderr)
  return status


if __name__ == "__main__":
  sys.exit(main())
