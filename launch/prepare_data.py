"""Makes a dataset of a folder or a tar of sounds, pictures or videos.

Command: python -m launch.prepare_data SRC NAME [--kind sound] [--data-dir datasets]

`data.sources=datasets/NAME/1.0.0` then trains on it. A file that cannot be decoded is named and
left out; if they are too many, exit status 1 and no dataset.
"""

import pathlib
import sys

from jaxcodec import terminal
from jaxcodec.errors import CodecError


def main(arguments: list[str] | None = None) -> int:
  """Runs the command with `arguments`, `sys.argv` if None, and returns its exit status."""
  from jaxcodec.data import builders, sources

  parser = terminal.Parser(prog="launch.prepare_data", description="Makes a dataset.")
  parser.add_argument("source", type=pathlib.Path, help="a folder or an uncompressed tar")
  parser.add_argument("name", help="of the dataset: small letters, digits and underscores")
  parser.add_argument("--kind", choices=tuple(builders.KINDS), default="sound")
  parser.add_argument("--data-dir", type=pathlib.Path, default=pathlib.Path("datasets"))
  parser.add_argument(
    "--max-bad-share", type=float, default=0.01, help="share of files that may be left out"
  )
  try:
    options = parser.parse_args(arguments)
    kind = builders.KINDS[options.kind]
    source = sources.open_source(options.source, kind.suffixes)
    directory, left_out = builders.prepare(
      source,
      options.name,
      kind,
      options.data_dir,
      max_bad_share=options.max_bad_share,
      progress=_shown,
    )
  except ValueError as error:
    return _fail(2, error)
  except CodecError as error:
    return _fail(1, error)
  print(f"{directory}: {len(source) - len(left_out)} files, {len(left_out)} left out")
  return 0


def _shown(indices):
  from rich.console import Console
  from rich.progress import track

  return iter(track(indices, "files", console=Console(stderr=True), transient=True))


def _fail(status: int, error: object) -> int:
  print(f"launch.prepare_data: {' '.join(str(error).split())}", file=sys.stderr)
  return status


if __name__ == "__main__":
  sys.exit(main())
