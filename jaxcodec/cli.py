"""The `jaxcodec` command: encode, decode, continue, stream, info, join, codecs, demo and others.

Exit status: 0 for success, 1 for data that cannot be used, 2 for a wrong call; both errors print
one line.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
from typing import Any

from jaxcodec import cli_evaluate, cli_sound, terminal
from jaxcodec.errors import CodecError


def main(arguments: list[str] | None = None) -> int:
  """Runs the command with `arguments`, `sys.argv` if None, and returns its exit status."""
  parser = _parser()
  _keep_compiled_programs()
  terminal.look_for_no_absent_accelerator()
  try:
    options = parser.parse_args(arguments)
    options.run(options)
    sys.stdout.flush()
  except terminal.UsageError as error:
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


def _stream(options: argparse.Namespace) -> None:
  from jaxcodec import live

  codec = terminal.load(options.codec)
  bitrate = terminal.bitrate(codec, options.bitrate)
  if not 1 <= options.frames <= 10_000:
    raise terminal.UsageError(f"--frames {options.frames} is not within 1 and 10000")
  terminal.say(
    f"reading {options.format} at {codec.sample_rate} Hz, {codec.channels} channel, from stdin; "
    f"chunks of {1000 * options.frames * codec.hop_length / codec.sample_rate:g} ms"
  )
  source, sink = sys.stdin.buffer, sys.stdout.buffer
  try:
    timing = live.pipe(
      codec, source, sink, bitrate=bitrate, frames=options.frames, sample_format=options.format
    )
  except ValueError as error:
    raise terminal.UsageError(str(error)) from None
  speed = timing.chunk_seconds / timing.median_step if timing.median_step else 0.0
  terminal.say(
    f"{timing.seconds:.2f} s; a chunk took {1000 * timing.median_step:.2f} ms (median), "
    f"{1000 * timing.slowest_step:.2f} ms (slowest): {speed:.0f}x real time"
  )


def _info(options: argparse.Namespace) -> None:
  from jaxcodec import describe

  facts = describe.info(terminal.read(options.input), check=options.check)
  text = json.dumps(facts) if options.json else "\n".join(describe.lines(facts))
  # A title may have letters that a terminal lacks.
  encoding = sys.stdout.encoding or "utf-8"
  print(text.encode(encoding, "backslashreplace").decode(encoding))


def _join(options: argparse.Namespace) -> None:
  from jaxcodec.entropy import container

  if "-" in options.inputs:
    raise terminal.UsageError("join reads files, not stdin")
  files = [terminal.read(path) for path in options.inputs]
  terminal.check_output(options.output, options.force)
  try:
    data = container.join(files, terminal.metadata(options, None))
  except ValueError as error:
    raise terminal.UsageError(str(error)) from None
  terminal.write(options.output, data)
  count = len(container.read_header(data).streams)
  terminal.say(f"{terminal.name(options.output, 'stdout')}: {len(data)} bytes, {count} streams")


def _codecs(options: argparse.Namespace) -> None:
  del options
  from jaxcodec.hub.load import bundled, load
  from jaxcodec.image.latent_codec import LatentCodec

  for name in bundled():
    codec = load(name)
    if isinstance(codec, LatentCodec):
      print(f"{name}: pictures of any size, --quality 0 to 100")
      continue
    kbps = ", ".join(f"{rate / 1000:g}" for rate in codec.bitrates)
    streams = "causal" if codec.causal else "not causal"
    print(f"{name}: {codec.sample_rate} Hz, {codec.channels} channel, {streams}, {kbps} kbit/s")
  print(
    "c3: pictures of any size, networks fitted to each, in minutes; --quality 0 to 100, --steps"
  )
  print(
    "--codec DIR: what jaxcodec.save wrote, an EnCodec, DAC or Mimi of the Hugging Face layout, "
    "Lyra V2's three .tflite files, or for pictures a state_dict of CompressAI (.pth, .pth.tar)"
  )


def _export(options: argparse.Namespace) -> None:
  import numpy as np

  from jaxcodec.hub import native
  from jaxcodec.image.latent_codec import LatentCodec

  path, dtype = pathlib.Path(options.output), np.float16 if options.half else np.float32
  as_file = path.suffix == ".safetensors"
  if path.suffix and not as_file:
    raise terminal.UsageError(f"{path}: end it with .safetensors, or with nothing for a directory")
  if as_file or not options.force:
    terminal.check_output(options.output, options.force)
  codec = terminal.load_any(options.codec)
  if isinstance(codec, LatentCodec) and as_file:
    raise terminal.UsageError(f"codec {codec.name} is one of pictures: name a directory to make")
  try:
    if as_file:
      native.save_file(codec, path, dtype=dtype)
    else:
      native.save(codec, path, dtype=dtype)
  except ValueError as error:
    raise terminal.UsageError(str(error)) from None
  size = sum(p.stat().st_size for p in ([path] if as_file else path.iterdir()))
  terminal.say(f"{path}: codec {codec.name}, {size} bytes")


def _demo(options: argparse.Namespace) -> None:
  from jaxcodec import demo, demo_pictures
  from jaxcodec.image.files import is_picture

  out = pathlib.Path(options.out)
  if out.exists() and not options.force and (not out.is_dir() or any(out.iterdir())):
    raise terminal.UsageError(f"{out} is there already: give --force to write into it")
  given = [terminal.existing(path) for path in options.files]
  pictures = [path for path in given if is_picture(path)]
  sounds = [path for path in given if path not in pictures]
  if not given:
    sounds, pictures = demo.bundled_samples(), demo_pictures.bundled_pictures()
  picture_codec = terminal.load_picture(options.picture_codec) if pictures else None
  page = demo.run(terminal.load(options.codec), sounds, out, picture_codec, pictures)
  print(f"\nListen and look: {page}")


def _parser() -> argparse.ArgumentParser:
  parser = terminal.Parser(
    prog="jaxcodec", description="Sound and pictures to small files and back."
  )
  commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

  def command(name: str, run, text: str) -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=text, description=text)
    added.set_defaults(run=run)
    return added

  codec: dict[str, Any] = {"metavar": "NAME|DIR", "help": "a bundled codec or a directory"}
  force: dict[str, Any] = {"action": "store_true", "help": "write over what is there"}
  encode = command("encode", cli_sound.encode, "Codes a sound or picture file into a .jxc file.")
  encode.add_argument("input", help="any format soundfile or Pillow reads; - for stdin")
  encode.add_argument("output", help="a .jxc file, .lyra for bare packets; - for stdout")
  encode.add_argument("--codec", default=None, **codec)
  encode.add_argument("--bitrate", type=float, metavar="KBPS", help="default: the codec's highest")
  encode.add_argument("--quality", type=float, metavar="Q", help="of a picture, 0 to 100; else 50")
  encode.add_argument("--target-bpp", type=float, metavar="BITS", help="at most, a pixel")
  encode.add_argument("--target-psnr", type=float, metavar="DB", help="of a picture, at least")
  encode.add_argument("--refine", type=int, default=0, metavar="N", help="a picture, in N steps")
  encode.add_argument(
    "--trade-off", type=float, metavar="LAMBDA", help="of --refine: bits a pixel for an error of 1"
  )
  encode.add_argument("--steps", type=int, metavar="N", help="of fitting (--codec c3); else 10000")
  encode.add_argument("--tile", type=int, metavar="N", help="pixels a side, a multiple of 64")
  encode.add_argument(
    "--progressive", action="store_true", help="the file's start is a coarser picture"
  )
  encode.add_argument("--source-hash", action="store_true", help="SHA-256 of the input, kept")
  encode.add_argument(
    "--prior", choices=("adaptive", "learned"), default="adaptive", help="learned: smaller, slower"
  )
  encode.add_argument("--force", **force)
  decode = command("decode", cli_sound.decode, "Decodes a .jxc file into a sound or picture file.")
  decode.add_argument("input", help="a .jxc or .lyra file; - for stdin")
  decode.add_argument("output", help=".wav, .flac, .ogg, .mp3, .png, .webp, .tif; - for stdout")
  decode.add_argument("--codec", default=None, **codec)
  decode.add_argument("--bitrate", type=float, metavar="KBPS", help="of a .lyra file")
  decode.add_argument("--stream", type=int, metavar="N", help="of a file of several, from 0")
  decode.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="begin there")
  decode.add_argument("--duration", type=float, metavar="SECONDS", help="default: to the end")
  decode.add_argument("--region", type=terminal.region, metavar="X,Y,W,H", help="of a picture")
  decode.add_argument("--partial", action="store_true", help="of a picture's file that is cut")
  decode.add_argument(
    "--max-memory", type=terminal.size, default="8G", metavar="SIZE", help="as 500M; default 8G"
  )
  decode.add_argument("--force", **force)
  go_on = command("continue", cli_sound.go_on, "Makes a sound file go on, by a language model.")
  go_on.add_argument("input", help="any format soundfile reads; - for stdin")
  go_on.add_argument("output", help="a sound file: the prompt, then what follows")
  go_on.add_argument("--model", required=True, metavar="DIR", help="a run that learnt codes")
  go_on.add_argument("--codec", default=terminal.SOUND_CODEC, **codec)
  go_on.add_argument("--seconds", type=float, default=3.0, help="of what follows; default 3")
  go_on.add_argument("--prompt", type=float, metavar="SECONDS", help="the input's last ones alone")
  go_on.add_argument("--temperature", type=float, default=1.0, help="0: the likeliest codes")
  go_on.add_argument("--top-k", type=int, metavar="K", help="likeliest entries to draw from")
  go_on.add_argument("--guidance", type=float, metavar="G", help="above 1: nearer to the prompt")
  go_on.add_argument("--seed", type=int, default=0)
  go_on.add_argument("--force", **force)
  write = command("transcribe", cli_sound.transcribe, "Writes down what is said in a sound file.")
  write.add_argument("input", help="any format soundfile reads; - for stdin")
  write.add_argument("--model", required=True, metavar="FILE|DIR", help="a .nemo file or a run")
  write.add_argument("--context", type=int, default=0, help="which of its look-aheads; default 0")
  write.add_argument(
    "--head", choices=("ctc", "transducer"), help="default: the transducer, if any"
  )
  kind = command("classify", cli_sound.classify, "Says what kind of sound a file is.")
  kind.add_argument("input", help="any format soundfile reads; - for stdin")
  kind.add_argument("--model", required=True, metavar="FILE|DIR", help="LMUFormer's .pth or a run")
  kind.add_argument("--top", type=int, default=3, help="classes that are shown; default 3")
  kind.add_argument(
    "--frames", type=int, default=0, help="of 10 ms, to cut or fill the sound to; default all"
  )
  stream = command("stream", _stream, "Codes and decodes raw samples from stdin to stdout, live.")
  stream.add_argument("--codec", default=terminal.SOUND_CODEC, **codec)
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
  demo = command("demo", _demo, "Codes and decodes samples; writes a page to hear and see them.")
  demo.add_argument("files", nargs="*", help="sounds and pictures; default: the bundled samples")
  demo.add_argument("--out", default="jaxcodec-demo", metavar="DIR")
  demo.add_argument("--codec", default=terminal.SOUND_CODEC, **codec)
  demo.add_argument("--picture-codec", default=terminal.PICTURE_CODEC, **codec)
  demo.add_argument("--force", **force)
  export = command("export", _export, "Writes a codec, such as a training run's, for --codec.")
  export.add_argument("codec", help="the directory of a run or of a codec")
  export.add_argument("output", help="a .safetensors file, or a directory to make")
  export.add_argument("--half", action="store_true", help="weights of 16 bits")
  export.add_argument("--force", **force)
  evaluate = command("evaluate", cli_evaluate.evaluate, "Codes a folder's files and measures.")
  evaluate.add_argument("folder", metavar="DIR", help="of sounds or pictures, with all in it")
  evaluate.add_argument("--codecs", default=None, metavar="A,B,C", help="as for --codec")
  evaluate.add_argument("--bitrate", type=float, metavar="KBPS", help="default: all of a codec's")
  evaluate.add_argument("--quality", type=float, metavar="Q", help="default: eight, for a curve")
  evaluate.add_argument("--steps", type=int, metavar="N", help="of a fit (c3); else 10000")
  evaluate.add_argument(
    "--refine", type=int, default=0, metavar="N", help="codecs of pictures in N steps, too"
  )
  evaluate.add_argument("--limit", type=int, metavar="N", help="the first N files")
  evaluate.add_argument(
    "--baselines", choices=("auto", "none"), default="auto", help="Opus, Codec 2; JPEG, WebP, ..."
  )
  evaluate.add_argument(
    "--perception", metavar="MODULE:FUNCTION", help="that names the kind of a file, its folder"
  )
  evaluate.add_argument("--json", metavar="FILE", help="means and files; - for stdout")
  evaluate.add_argument("--plot", metavar="FILE", help="curves of pictures, as PNG")
  evaluate.add_argument("--force", **force)
  return parser


def _fail(status: int, error: object) -> int:
  line = " ".join(str(error).split())
  with contextlib.suppress(BrokenPipeError):
    terminal.say(f"jaxcodec: {line}")
  return status


if __name__ == "__main__":
  sys.exit(main())
