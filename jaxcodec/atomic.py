"""Files that are there whole or not at all."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A temporary file beside `path`, put in its place if all went well and removed if not.

  A process that is killed leaves what stood under `path` before, and at worst the temporary file.
  """
  handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
  os.close(handle)
  temporary = pathlib.Path(name)
  try:
    yield temporary
    # mkstemp makes files for their owner alone; a user's file gets the usual mode.
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    # The content before the name: else a power cut may leave an empty file under the name.
    with open(temporary, "rb+") as file:
      os.fsync(file.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def write(path: pathlib.Path, data: bytes) -> None:
  """Puts all of `data` under the name `path`, or nothing."""
  with replacing(path) as temporary:
    temporary.write_bytes(data)
