"""The `jaxcodec` command: encode, decode, stream, info, join, codecs, demo, export, evaluate.

Exit status: 0 for success, 1 for data that cannot be used, 2 for a wrong call; both errors print
one line.
"""

import argparse
import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from jaxcodec.errors import CodecError

_DEFAULT_CODEC = "speech-16khz"
_PACKETS = ".lyra"  # Files of Lyra's packets, which say nothing of themselves.


class UsageError(Exception):
  """A wrong call: exit status 2."""


def main(arguments: list[str] | None = None) -> int:
  """Runs the command with `arguments`, `sys.argv` if None, and returns its exit status."""
  parser = _parser()
  _keep_compiled_programs()
  try:
    options = parser.parse_args(arguments)
    options.run(options)
    sys.stdout.flush()
  except UsageError as error:
    return _fail(2, error)
  except CodecError as error:
    return _fail(1, error)
  except BrokenPipeError:
    # Whoever read our output has gone; Python would complain once more when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except OSError as error:
    name = f"{error.filename}: " if error.filename else ""
    return _fail(1, f"{name}{error.strerror or error}")
  except MemoryError:
    return _fail(1, "out of memory")
  except KeyboardInterrupt:
    return _fail(130, "interrupted")
  except Exception as error:
    # A fault of ours. A user gets one line all the same, and a way to the rest.
    if os.environ.get("JAXCODEC_DEBUG"):
      raise
    kind = type(error).__name__
    return _fail(1, f"unexpected {kind}: {error} (JAXCODEC_DEBUG=1 shows where)")
  return 0


def _keep_compiled_programs() -> None:
  """Tells jax, before it is imported, to keep what it compiles in the user's cache directory."""
  cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "jaxcodec" / "compiled"))
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _encode(options: argparse.Namespace) -> None:
  source = _input(options.input)
  _check_output(options.output, options.force)
  from jaxcodec import bitstream
  from jaxcodec.audio.files import SoundReader

  packets = options.output.endswith(_PACKETS)
  codec = _load_lyra(options.codec) if packets else _load(options.codec)
  bitrate = _bitrate(codec, options.bitrate)
  name = _name(options.input)
  if packets and (options.title or options.meta or options.source_hash):
    raise UsageError(f"{_PACKETS} files say nothing of themselves: no metadata go into them")
  metadata = _metadata(options, source)
  reader = SoundReader(source, name, codec.sample_rate, codec.channels)
  if reader.change:
    _say(f"{name}: {reader.change}")
  start = time.monotonic()
  blocks = _progress(reader.blocks(), "encoding", reader.seconds, 1 / codec.sample_rate)
  if packets:
    data = _packed(codec, blocks, bitrate)
  else:
    learned = options.prior == "learned"
    if learned and codec.learned is None:
      raise UsageError(f"codec {codec.name} has no learned prior")
    data = bitstream.compress_blocks(
      codec, blocks, bitrate=bitrate, metadata=metadata, learned=learned
    )
  _write(options.output, data)
  kbps = 8e-3 * len(data) / reader.seconds if reader.seconds else 0.0
  speed = reader.seconds / (time.monotonic() - start)
  _say(
    f"{_name(options.output, 'stdout')}: {len(data)} bytes for {reader.seconds:.2f} s, "
    f"{kbps:.2f} kbit/s, {speed:.1f}x real time"
  )


def _decode(options: argparse.Namespace) -> None:
  data = _read(options.input, options.max_memory)
  _check_output(options.output, options.force)
  from jaxcodec import atomic
  from jaxcodec.audio import files

  path = pathlib.Path("stdout.wav" if options.output == "-" else options.output)
  try:
    kind = files.file_format(path)
  except ValueError as error:
    raise UsageError(str(error)) from None
  decoded = _decoded_packets if options.input.endswith(_PACKETS) else _decoded_file
  num_samples, rate, channels, blocks = decoded(options, data)
  seconds = num_samples / rate
  blocks = _progress(blocks, "decoding", seconds, 1 / rate)
  start = time.monotonic()
  if options.output == "-":
    sound = io.BytesIO()
    files.write_sound(sound, "WAV", blocks, rate, channels)
    sys.stdout.buffer.write(sound.getvalue())
  else:
    with atomic.replacing(path) as temporary:
      files.write_sound(temporary, kind, blocks, rate, channels)
  speed = seconds / (time.monotonic() - start)
  name = _name(options.output, "stdout")
  _say(f"{name}: {seconds:.2f} s at {rate} Hz, {speed:.1f}x real time")


def _decoded_file(options: argparse.Namespace, data: bytes):
  """Samples, rate, channels and blocks of a `.jxc` file."""
  from jaxcodec import bitstream
  from jaxcodec.entropy import container

  if options.bitrate is not None:
    raise UsageError(f"--bitrate is for {_PACKETS} files: a .jxc file says its own")
  streams = container.read_header(data).streams
  if options.stream is None and len(streams) > 1:
    raise UsageError(f"{_name(options.input)} holds {len(streams)} streams: give --stream, from 0")
  number = options.stream or 0
  if not 0 <= number < len(streams):
    raise UsageError(f"{_name(options.input)} has no stream {number}: it holds {len(streams)}")
  stream = streams[number]
  if stream.batch != 1:
    raise CodecError(f"{_name(options.input)} holds {stream.batch} signals; decode it from Python")
  part = {"start": options.start, "duration": options.duration}
  try:
    first, stop = bitstream.sample_range(stream, **part)
  except ValueError as error:
    raise UsageError(str(error)) from None
  codec = None if options.codec is None else _load(options.codec)
  _, blocks = bitstream.decompress_blocks(
    data,
    codec,
    stream=number,
    max_memory=options.max_memory,
    held=options.output == "-",
    **part,
  )
  return stop - first, stream.sample_rate, stream.channels, blocks


def _decoded_packets(options: argparse.Namespace, data: bytes):
  """Samples, rate, channels and blocks of a file of Lyra's packets."""
  from jaxcodec import bitstream, chunked
  from jaxcodec.entropy import lyra_packets

  if options.stream is not None or options.start or options.duration is not None:
    raise UsageError("--stream, --start and --duration are for .jxc files")
  if options.codec is None or options.bitrate is None:
    raise UsageError(f"{_PACKETS} files say nothing of themselves: give --codec and --bitrate")
  codec = _load_lyra(options.codec)
  bitrate = _bitrate(codec, options.bitrate)
  codes = lyra_packets.unpack_packets(data, codec.module.num_active(bitrate))
  frames, length = (
    chunked.chunk_frames(codec, bitstream.CHUNK_SECONDS),
    len(codes) * codec.hop_length,
  )
  blocks = chunked.decode_blocks(codec, [(codes[None], None)], frames, length)
  return length, codec.sample_rate, codec.channels, blocks


def _packed(codec, blocks: Iterable, bitrate: int | None) -> bytes:
  """A sound as Lyra's packets."""
  from jaxcodec import bitstream, chunked
  from jaxcodec.entropy import lyra_packets

  frames = chunked.chunk_frames(codec, bitstream.CHUNK_SECONDS)
  chunks = chunked.encode_blocks(codec, blocks, frames, bitrate=bitrate)
  return b"".join(lyra_packets.pack_packets(codes[0]) for codes, _ in chunks)


def _load_lyra(name: str):
  from jaxcodec.audio.lyra import Lyra

  codec = _load(name)
  if not isinstance(codec.module, Lyra):
    raise UsageError(f"{_PACKETS} files are for Lyra, and {name} is another codec")
  return codec


def _stream(options: argparse.Namespace) -> None:
  from jaxcodec import live

  codec = _load(options.codec)
  bitrate = _bitrate(codec, options.bitrate)
  if not 1 <= options.frames <= 10_000:
    raise UsageError(f"--frames {options.frames} is not within 1 and 10000")
  _say(
    f"reading {options.format} at {codec.sample_rate} Hz, {codec.channels} channel, from stdin; "
    f"chunks of {1000 * options.frames * codec.hop_length / codec.sample_rate:g} ms"
  )
  source, sink = sys.stdin.buffer, sys.stdout.buffer
  try:
    timing = live.pipe(
      codec, source, sink, bitrate=bitrate, frames=options.frames, sample_format=options.format
    )
  except ValueError as error:
    raise UsageError(str(error)) from None
  speed = timing.chunk_seconds / timing.median_step if timing.median_step else 0.0
  _say(
    f"{timing.seconds:.2f} s; a chunk took {1000 * timing.median_step:.2f} ms (median), "
    f"{1000 * timing.slowest_step:.2f} ms (slowest): {speed:.0f}x real time"
  )


def _info(options: argparse.Namespace) -> None:
  from jaxcodec import describe

  facts = describe.info(_read(options.input), check=options.check)
  text = json.dumps(facts) if options.json else "\n".join(describe.lines(facts))
  # A title may have letters that a terminal lacks.
  encoding = sys.stdout.encoding or "utf-8"
  print(text.encode(encoding, "backslashreplace").decode(encoding))


def _join(options: argparse.Namespace) -> None:
  from jaxcodec.entropy import container

  if "-" in options.inputs:
    raise UsageError("join reads files, not stdin")
  files = [_read(path) for path in options.inputs]
  _check_output(options.output, options.force)
  try:
    data = container.join(files, _metadata(options, None))
  except ValueError as error:
    raise UsageError(str(error)) from None
  _write(options.output, data)
  count = len(container.read_header(data).streams)
  _say(f"{_name(options.output, 'stdout')}: {len(data)} bytes, {count} streams")


def _metadata(options: argparse.Namespace, source) -> dict[str, str]:
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


def _codecs(options: argparse.Namespace) -> None:
  del options
  from jaxcodec.hub.load import bundled, load

  for name in bundled():
    codec = load(name)
    kbps = ", ".join(f"{rate / 1000:g}" for rate in codec.bitrates)
    streams = "causal" if codec.causal else "not causal"
    print(f"{name}: {codec.sample_rate} Hz, {codec.channels} channel, {streams}, {kbps} kbit/s")
  print(
    "--codec DIR: what jaxcodec.save wrote, an EnCodec, DAC or Mimi of the Hugging Face layout, "
    "or Lyra V2's three .tflite files"
  )


def _export(options: argparse.Namespace) -> None:
  import numpy as np

  from jaxcodec.hub import native

  _check_output(options.output, options.force)
  path = pathlib.Path(options.output)
  if path.suffix != ".safetensors":
    raise UsageError(f"{path} must end with .safetensors")
  codec = _load(options.codec)
  try:
    native.save_file(codec, path, dtype=np.float16 if options.half else np.float32)
  except ValueError as error:
    raise UsageError(str(error)) from None
  _say(f"{path}: codec {codec.name}, {path.stat().st_size} bytes")


def _demo(options: argparse.Namespace) -> None:
  from jaxcodec import demo

  out = pathlib.Path(options.out)
  if out.exists() and not options.force and (not out.is_dir() or any(out.iterdir())):
    raise UsageError(f"{out} is there already: give --force to write into it")
  sources = [_existing(path) for path in options.files] or demo.bundled_samples()
  page = demo.run(_load(options.codec), sources, out)
  print(f"\nListen: {page}")


def _evaluate(options: argparse.Namespace) -> None:
  folder = pathlib.Path(options.folder)
  if not folder.is_dir():
    raise UsageError(f"no directory {folder}")
  if options.limit is not None and options.limit < 1:
    raise UsageError(f"--limit must be 1 or more, got {options.limit}")
  if options.json:
    _check_output(options.json, options.force)
  from rich.console import Console
  from rich.progress import track

  from jaxcodec import baselines, evaluate

  names = options.codecs.split(",")
  if "" in names:
    raise UsageError(f"--codecs has an empty name: {options.codecs!r}")
  codecs = {name: _load(name) for name in names}
  systems = [
    system
    for name, codec in codecs.items()
    for system in evaluate.codec_systems(name, codec, _bitrate(codec, options.bitrate))
  ]
  missing = (
    [] if evaluate.pesq_is_installed() else ["PESQ is left out: pip install 'jaxcodec[metrics]'"]
  )
  if options.baselines == "auto":
    formats = dict.fromkeys((system.sample_rate, system.channels) for system in systems)
    found, absent = baselines.find(formats)
    systems, missing = systems + found, missing + absent
  console = Console(stderr=True)
  sources = evaluate.sound_files(folder)[: options.limit]
  bar = track(
    sources, "evaluating", console=console, transient=True, disable=not console.is_terminal
  )
  result = evaluate.run(systems, bar)
  for _, reason in result.skipped:
    _say(f"skipped: {reason}")
  if result.skipped:
    _say(f"{len(result.skipped)} of {len(sources)} files skipped")
  for line in missing:
    _say(line)
  text = json.dumps(result.to_json() | {"missing": missing}, indent=1)
  evaluate.print_table(result, stderr=options.json == "-")
  if options.json == "-":
    print(text)
  elif options.json:
    from jaxcodec import atomic

    atomic.write(pathlib.Path(options.json), f"{text}\n".encode())


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(prog="jaxcodec", description="Sound to small files and back.")
  commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

  def command(name: str, run, text: str) -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=text, description=text)
    added.set_defaults(run=run)
    return added

  codec: dict[str, Any] = {"metavar": "NAME|DIR", "help": "a bundled codec or a directory"}
  force: dict[str, Any] = {"action": "store_true", "help": "write over what is there"}
  encode = command("encode", _encode, "Codes a sound file into a .jxc file.")
  encode.add_argument("input", help="any format soundfile reads; - for stdin")
  encode.add_argument("output", help="a .jxc file, .lyra for bare packets; - for stdout")
  encode.add_argument("--codec", default=_DEFAULT_CODEC, **codec)
  encode.add_argument("--bitrate", type=float, metavar="KBPS", help="default: the codec's highest")
  encode.add_argument("--source-hash", action="store_true", help="SHA-256 of the input, kept")
  encode.add_argument(
    "--prior", choices=("adaptive", "learned"), default="adaptive", help="learned: smaller, slower"
  )
  encode.add_argument("--force", **force)
  decode = command("decode", _decode, "Decodes a .jxc file into a sound file.")
  decode.add_argument("input", help="a .jxc or .lyra file; - for stdin")
  decode.add_argument("output", help=".wav, .flac, .ogg or .mp3; - for a WAV on stdout")
  decode.add_argument("--codec", default=None, **codec)
  decode.add_argument("--bitrate", type=float, metavar="KBPS", help="of a .lyra file")
  decode.add_argument("--stream", type=int, metavar="N", help="of a file of several, from 0")
  decode.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="begin there")
  decode.add_argument("--duration", type=float, metavar="SECONDS", help="default: to the end")
  decode.add_argument(
    "--max-memory", type=_size, default="8G", metavar="SIZE", help="as 500M; default 8G"
  )
  decode.add_argument("--force", **force)
  stream = command("stream", _stream, "Codes and decodes raw samples from stdin to stdout, live.")
  stream.add_argument("--codec", default=_DEFAULT_CODEC, **codec)
  stream.add_argument("--bitrate", type=float, metavar="KBPS", help="default: the codec's highest")
  stream.add_argument("--frames", type=int, default=1, help="frames of codes a chunk; default 1")
  stream.add_argument("--format", choices=("s16le", "f32le"), default="s16le", help="of samples")
  info = command("info", _info, "Says what a .jxc file holds; needs no weights.")
  info.add_argument("input", help="a .jxc file; - for stdin")
  info.add_argument("--check", action="store_true", help="every checksum, too")
  info.add_argument("--json", action="store_true", help="as one JSON object")
  join = command("join", _join, "Makes one .jxc file of the streams of several.")
  join.add_argument("inputs", nargs="+", metavar="input", help="a .jxc file")
  join.add_argument("output", help="a .jxc file; - for stdout")
  join.add_argument("--force", **force)
  for added in (encode, join):
    added.add_argument("--title", metavar="TEXT", help="kept in the file")
    added.add_argument(
      "--meta", action="append", default=[], metavar="KEY=VALUE", help="kept in the file; as often"
    )
  command("codecs", _codecs, "Lists the codecs at hand.")
  demo = command("demo", _demo, "Codes and decodes samples; writes a page to listen to.")
  demo.add_argument("files", nargs="*", help="sound files; default: the bundled samples")
  demo.add_argument("--out", default="jaxcodec-demo", metavar="DIR")
  demo.add_argument("--codec", default=_DEFAULT_CODEC, **codec)
  demo.add_argument("--force", **force)
  export = command("export", _export, "Writes a codec, such as a training run's, as one file.")
  export.add_argument("codec", help="the directory of a run or of a codec")
  export.add_argument("output", help="a .safetensors file, which --codec takes")
  export.add_argument("--half", action="store_true", help="weights of 16 bits")
  export.add_argument("--force", **force)
  evaluate = command("evaluate", _evaluate, "Codes the sound files of a folder and measures.")
  evaluate.add_argument("folder", metavar="DIR", help="searched with all folders in it")
  evaluate.add_argument("--codecs", default=_DEFAULT_CODEC, metavar="A,B,C", help="as for --codec")
  evaluate.add_argument("--bitrate", type=float, metavar="KBPS", help="default: all of a codec's")
  evaluate.add_argument("--limit", type=int, metavar="N", help="the first N files")
  evaluate.add_argument(
    "--baselines", choices=("auto", "none"), default="auto", help="Opus, Codec 2 if installed"
  )
  evaluate.add_argument("--json", metavar="FILE", help="means and files; - for stdout")
  evaluate.add_argument("--force", **force)
  return parser


class _Parser(argparse.ArgumentParser):
  """Says a mistake in one line, without the usage."""

  def error(self, message: str) -> NoReturn:
    raise UsageError(f"{message} (see {self.prog} --help)")


def _size(text: str) -> int:
  """Bytes of a text such as 500M."""
  factor = {"K": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:].upper(), 1)
  value = float(text[:-1] if factor > 1 else text) * factor
  if not 0 < value < 2**63:
    raise ValueError
  return int(value)


def _load(name: str):
  from jaxcodec.hub.load import bundled, load

  known = name in bundled() or pathlib.Path(name).exists() or "/" in name
  if not known:
    raise UsageError(f"no codec {name!r}: neither a directory nor one of {', '.join(bundled())}")
  return load(name)


def _bitrate(codec, kbps: float | None) -> int | None:
  if kbps is None:
    return None
  bitrate = round(1000 * kbps) if 0 < kbps < 1e6 else -1
  if bitrate not in codec.bitrates:
    offered = ", ".join(f"{rate / 1000:g}" for rate in codec.bitrates)
    raise UsageError(f"codec {codec.name} has no bitrate {kbps:g} kbit/s; it has {offered}")
  return bitrate


def _existing(path: str) -> pathlib.Path:
  if not pathlib.Path(path).is_file():
    raise UsageError(f"no file {path}")
  return pathlib.Path(path)


def _input(path: str):
  """What soundfile can open: a path, or stdin's bytes, since it needs to seek."""
  return io.BytesIO(sys.stdin.buffer.read()) if path == "-" else _existing(path)


def _read(path: str, most: float = math.inf) -> bytes:
  """A file's bytes; CodecError if there are more than `most`, before they are read."""
  if path != "-":
    if _existing(path).stat().st_size > most:
      raise CodecError(f"{path} is larger than the memory that is allowed")
    return pathlib.Path(path).read_bytes()
  parts, size = [], 0
  while part := sys.stdin.buffer.read(1 << 20):
    parts.append(part)
    size += len(part)
    if size > most:
      raise CodecError("stdin goes on after the memory that is allowed")
  return b"".join(parts)


def _write(path: str, data: bytes) -> None:
  """Puts all of `data` under the name `path`, or nothing."""
  if path == "-":
    sys.stdout.buffer.write(data)
    return
  from jaxcodec import atomic

  atomic.write(pathlib.Path(path), data)


def _check_output(path: str, force: bool) -> None:
  if path == "-":
    return
  if pathlib.Path(path).is_dir():
    raise UsageError(f"{path} is a directory")
  if not pathlib.Path(path).absolute().parent.is_dir():
    raise UsageError(f"no directory {pathlib.Path(path).parent}")
  if pathlib.Path(path).exists() and not force:
    raise UsageError(f"{path} is there already: give --force to write over it")


def _name(path: str, dash: str = "stdin") -> str:
  return dash if path == "-" else path


def _say(line: str) -> None:
  print(line, file=sys.stderr)


def _fail(status: int, error: object) -> int:
  line = " ".join(str(error).split())
  with contextlib.suppress(BrokenPipeError):
    _say(f"jaxcodec: {line}")
  return status


def _progress(blocks: Iterable, what: str, seconds: float, step: float) -> Iterator:
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


if __name__ == "__main__":
  sys.exit(main())
