"""What every subcommand needs: its files, a codec by name, one line for a mistake, progress."""

import argparse
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import io
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NoReturn

from jaxcodec.errors import CodecError

# What is bundled, and what is meant where no codec is named.
SOUND_CODEC = "speech-16khz"
PICTURE_CODEC = "photo"
FITTED_CODEC = "c3"  # Made anew for each picture.


class UsageError(ValueError):
  """A wrong call: exit status 2."""


class Parser(argparse.ArgumentParser):
  """Says a mistake in one line, without the usage, as a `UsageError`."""

  def error(self, message: str) -> NoReturn:
    raise UsageError(f"{message} (see {self.prog} --help)")


def look_for_no_absent_accelerator() -> None:
  """Tells jax to use the CPU where nothing else can be, unless `JAX_PLATFORMS` says otherwise.

  With the package libtpu installed (as the tests have it, for its compiler) jax would try a TPU on
  any machine, and libtpu and its profiler print pages on stderr where there is none.
  """
  plugins = importlib.util.find_spec("jax_plugins") or importlib.metadata.entry_points(
    group="jax_plugins"
  )
  if plugins or may_have_tpu() or os.environ.get("JAX_PLATFORMS"):
    return
  os.environ["JAX_PLATFORMS"] = "cpu"
  if "jax" in sys.modules:
    import jax

    # It has read its environment already.
    jax.config.update("jax_platforms", "cpu")


def keep_freed_memory() -> None:
  """On a CPU of Linux, keeps for the next step of a program what the last one freed.

  XLA takes all of a step's memory anew, often half a gigabyte. glibc would return so much to the
  system at once, which clears every page before it gives it again. To be called before jax starts
  its threads: those that have an allocator's arena of their own do not share what is kept.
  """
  if sys.platform != "linux" or os.environ.get("JAX_PLATFORMS") != "cpu":
    return
  libc = ctypes.CDLL(None)
  if not hasattr(libc, "mallopt"):  # Musl's has none.
    return
  for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):
    libc.mallopt(option, value)


# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def may_have_tpu(root: pathlib.Path = pathlib.Path("/")) -> bool:
  """Whether the machine has a device that could be a TPU: Google's on the PCI bus, or in /dev."""
  vendors = root.glob("sys/bus/pci/devices/*/vendor")
  nodes = (*root.glob("dev/accel*"), *root.glob("dev/vfio/[0-9]*"))
  return bool(nodes) or any(path.read_text().strip() == "0x1ae0" for path in vendors)


def size(text: str) -> int:
  """Bytes of a text such as 500M."""
  factor = {"K": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:].upper(), 1)
  value = float(text[:-1] if factor > 1 else text) * factor
  if not 0 < value < 2**63:
    raise ValueError
  return int(value)


def region(text: str) -> tuple[int, int, int, int]:
  """Pixels of a text such as 100,50,640,480."""
  left, top, width, height = map(int, text.split(","))
  return left, top, width, height


def load(name: str):
  """A codec of sound."""
  from jaxcodec.hub.load import load_sound

  check_codec(name)
  return load_sound(name)


def load_any(name: str):
  """A codec of sound or pictures."""
  from jaxcodec.hub.load import load

  check_codec(name)
  return load(name)


def load_picture(name: str):
  """A codec of pictures."""
  from jaxcodec.hub.load import load_picture

  check_codec(name)
  return load_picture(name)


def check_codec(name: str) -> None:
  from jaxcodec.hub.load import bundled

  known = name in bundled() or pathlib.Path(name).exists() or "/" in name
  if not known:
    raise UsageError(f"no codec {name!r}: neither a directory nor one of {', '.join(bundled())}")


def bitrate(codec, kbps: float | None) -> int | None:
  if kbps is None:
    return None
  bitrate = round(1000 * kbps) if 0 < kbps < 1e6 else -1
  if bitrate not in codec.bitrates:
    offered = ", ".join(f"{rate / 1000:g}" for rate in codec.bitrates)
    raise UsageError(f"codec {codec.name} has no bitrate {kbps:g} kbit/s; it has {offered}")
  return bitrate


def existing(path: str) -> pathlib.Path:
  if not pathlib.Path(path).is_file():
    raise UsageError(f"no file {path}")
  return pathlib.Path(path)


def source(path: str):
  """What soundfile can open: a path, or stdin's bytes, since it needs to seek."""
  return io.BytesIO(sys.stdin.buffer.read()) if path == "-" else existing(path)


def read(path: str, most: float = math.inf) -> bytes:
  """A file's bytes; CodecError if there are more than `most`, before they are read."""
  if path != "-":
    if existing(path).stat().st_size > most:
      raise CodecError(f"{path} is larger than the memory that is allowed")
    return pathlib.Path(path).read_bytes()
  parts, size = [], 0
  while part := sys.stdin.buffer.read(1 << 20):
    parts.append(part)
    size += len(part)
    if size > most:
      raise CodecError("stdin goes on after the memory that is allowed")
  return b"".join(parts)


def write(path: str, data: bytes) -> None:
  """Puts all of `data` under the name `path`, or nothing."""
  if path == "-":
    sys.stdout.buffer.write(data)
    return
  from jaxcodec import atomic

  atomic.write(pathlib.Path(path), data)


def check_output(path: str, force: bool) -> None:
  if path == "-":
    return
  if pathlib.Path(path).is_dir():
    raise UsageError(f"{path} is a directory")
  if not pathlib.Path(path).absolute().parent.is_dir():
    raise UsageError(f"no directory {pathlib.Path(path).parent}")
  if pathlib.Path(path).exists() and not force:
    raise UsageError(f"{path} is there already: give --force to write over it")


def name(path: str, dash: str = "stdin") -> str:
  return dash if path == "-" else path


def say(line: str) -> None:
  print(line, file=sys.stderr)


def progress(blocks: Iterable, what: str, seconds: float, step: float) -> Iterator:
  """`blocks`, with a bar on stderr once they have taken two seconds."""
  from rich.console import Console
  from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

  columns = (TextColumn(what), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
  bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
  task = bar.add_task(what, total=seconds)
  start, shown = time.monotonic(), False
  try:
    for block in blocks:
      yield block
      bar.advance(task, block.shape[1] * step)
      if not shown and time.monotonic() - start > 2:
        bar.start()
        shown = True
  finally:
    if shown:
      bar.stop()


def metadata(options: argparse.Namespace, source) -> dict[str, str]:
  """The texts that a call gives, and the hash of the sound that `source` holds if it asks."""
  from jaxcodec.entropy.fields import check_metadata

  found = {} if options.title is None else {"title": options.title}
  for pair in options.meta:
    key, equals, value = pair.partition("=")
    if not equals or key in found:
      raise UsageError(f"--meta takes KEY=VALUE, each key once, not {pair!r}")
    found[key] = value
  if source is not None and options.source_hash:
    data = source.getvalue() if isinstance(source, io.BytesIO) else source.read_bytes()
    found["source-sha256"] = hashlib.sha256(data).hexdigest()
  try:
    check_metadata(found)
  except ValueError as error:
    raise UsageError(str(error)) from None
  return found
