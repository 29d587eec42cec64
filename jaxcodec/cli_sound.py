"""`jaxcodec encode` and `decode`: sound files to `.jxc` files or Lyra's packets, and back; and
`continue`, `transcribe` and `classify`: sound files that go on, as text, and of what kind."""

import argparse
import io
import pathlib
import sys
import time
from collections.abc import Iterable

from jaxcodec import cli_picture, terminal
from jaxcodec.errors import CodecError

_PACKETS = ".lyra"  # Files of Lyra's packets, which say nothing of themselves.


def encode(options: argparse.Namespace) -> None:
  source = terminal.source(options.input)
  terminal.check_output(options.output, options.force)
  from jaxcodec import bitstream
  from jaxcodec.audio.files import SoundReader
  from jaxcodec.data import sources
  from jaxcodec.image.files import is_picture

  packets = options.output.endswith(_PACKETS)
  if options.codec == terminal.FITTED_CODEC and not packets:
    cli_picture.encode_fitted(options, source)
    return
  if options.steps is not None:
    raise terminal.UsageError(f"--steps is for --codec {terminal.FITTED_CODEC}")
  if options.codec is None:
    options.codec = terminal.PICTURE_CODEC if is_picture(source) else terminal.SOUND_CODEC
    suffix = pathlib.Path(options.input).suffix.lower()
    if options.codec == terminal.SOUND_CODEC and suffix in sources.PICTURES:
      raise CodecError(f"{terminal.name(options.input)} is not a picture that can be read")
  codec = _load_lyra(options.codec) if packets else terminal.load_any(options.codec)
  if cli_picture.is_latent(codec):
    cli_picture.encode(options, codec, source)
    return
  if {options.quality, options.target_bpp, options.target_psnr} != {None}:
    raise terminal.UsageError("--quality, --target-bpp and --target-psnr are for pictures")
  if options.refine or options.trade_off is not None:
    raise terminal.UsageError("--refine and --trade-off are for pictures")
  if options.tile is not None or options.progressive:
    raise terminal.UsageError("--tile and --progressive are for pictures")
  bitrate = terminal.bitrate(codec, options.bitrate)
  name = terminal.name(options.input)
  if packets and (options.title or options.meta or options.source_hash):
    raise terminal.UsageError(
      f"{_PACKETS} files say nothing of themselves: no metadata go into them"
    )
  metadata = terminal.metadata(options, source)
  _refuse_pictures(source, name, options.codec)
  reader = SoundReader(source, name, codec.sample_rate, codec.channels)
  if reader.change:
    terminal.say(f"{name}: {reader.change}")
  start = time.monotonic()
  blocks = terminal.progress(reader.blocks(), "encoding", reader.seconds, 1 / codec.sample_rate)
  if packets:
    data = _packed(codec, blocks, bitrate)
  else:
    learned = options.prior == "learned"
    if learned and codec.learned is None:
      raise terminal.UsageError(f"codec {codec.name} has no learned prior")
    data = bitstream.compress_blocks(
      codec, blocks, bitrate=bitrate, metadata=metadata, learned=learned
    )
  terminal.write(options.output, data)
  kbps = 8e-3 * len(data) / reader.seconds if reader.seconds else 0.0
  speed = reader.seconds / (time.monotonic() - start)
  terminal.say(
    f"{terminal.name(options.output, 'stdout')}: {len(data)} bytes for {reader.seconds:.2f} s, "
    f"{kbps:.2f} kbit/s, {speed:.1f}x real time"
  )


def decode(options: argparse.Namespace) -> None:
  from jaxcodec import picture_file

  data = terminal.read(options.input, options.max_memory)
  terminal.check_output(options.output, options.force)
  if not options.input.endswith(_PACKETS) and picture_file.holds_picture(data, options.stream):
    cli_picture.decode(options, data)
    return
  if options.region is not None or options.partial:
    raise terminal.UsageError("--region and --partial are for pictures")
  from jaxcodec import atomic
  from jaxcodec.audio import files

  path = pathlib.Path("stdout.wav" if options.output == "-" else options.output)
  try:
    kind = files.file_format(path)
  except ValueError as error:
    raise terminal.UsageError(str(error)) from None
  decoded = _decoded_packets if options.input.endswith(_PACKETS) else _decoded_file
  num_samples, rate, channels, blocks = decoded(options, data)
  seconds = num_samples / rate
  blocks = terminal.progress(blocks, "decoding", seconds, 1 / rate)
  start = time.monotonic()
  if options.output == "-":
    sound = io.BytesIO()
    files.write_sound(sound, "WAV", blocks, rate, channels)
    sys.stdout.buffer.write(sound.getvalue())
  else:
    with atomic.replacing(path) as temporary:
      files.write_sound(temporary, kind, blocks, rate, channels)
  speed = seconds / (time.monotonic() - start)
  name = terminal.name(options.output, "stdout")
  terminal.say(f"{name}: {seconds:.2f} s at {rate} Hz, {speed:.1f}x real time")


def go_on(options: argparse.Namespace) -> None:
  source = terminal.source(options.input)
  terminal.check_output(options.output, options.force)
  if not 0 < options.seconds <= 600 or options.temperature < 0:
    raise terminal.UsageError("--seconds must be above 0, at most 600; --temperature 0 or more")
  import jax
  import jax.numpy as jnp
  import numpy as np

  from jaxcodec import atomic, continuation
  from jaxcodec.audio import files
  from jaxcodec.hub.code_lm import load_code_lm

  path, codec = pathlib.Path(options.output), terminal.load(options.codec)
  lm = load_code_lm(options.model)
  reader = files.SoundReader(
    source, terminal.name(options.input), codec.sample_rate, codec.channels
  )
  x = np.concatenate([np.zeros((1, 0, codec.channels), np.float32), *reader.blocks()], axis=1)
  x = x[:, -round(options.prompt * codec.sample_rate) :] if options.prompt else x
  start = time.monotonic()
  try:
    kind = files.file_format(path)
    y = continuation.continue_sound(
      codec,
      lm,
      jnp.asarray(x),
      jax.random.key(options.seed),
      seconds=options.seconds,
      temperature=options.temperature,
      top_k=options.top_k,
      guidance=options.guidance,
    )
  except ValueError as error:
    raise terminal.UsageError(str(error)) from None
  with atomic.replacing(path) as temporary:
    files.write_sound(temporary, kind, [np.asarray(y)], codec.sample_rate, codec.channels)
  speed = options.seconds / (time.monotonic() - start)
  terminal.say(f"{path}: {y.shape[1] / codec.sample_rate:.2f} s, {speed:.1f}x real time")


def transcribe(options: argparse.Namespace) -> None:
  source = terminal.source(options.input)
  import numpy as np

  from jaxcodec.audio import files, recognizer
  from jaxcodec.hub.recognizer import load_recognizer

  loaded = load_recognizer(options.model)
  name = terminal.name(options.input)
  reader = files.SoundReader(source, name, recognizer.SAMPLE_RATE, 1)
  if reader.change:
    terminal.say(f"{name}: {reader.change}")
  x = np.concatenate([np.zeros((1, 0, 1), np.float32), *reader.blocks()], axis=1)
  start = time.monotonic()
  try:
    (text,) = recognizer.transcribe(loaded, x[..., 0], context=options.context)
  except ValueError as error:
    raise terminal.UsageError(str(error)) from None
  head = options.head or next(reversed(text))
  if head not in text:
    raise terminal.UsageError(f"no head {head!r}: {options.model} has {', '.join(text)}")
  print(text[head])
  late = recognizer.seconds_late(loaded.module, options.context)
  speed = reader.seconds / (time.monotonic() - start)
  terminal.say(f"{name}: chunks of {late:g} s, {speed:.1f}x real time")


def _decoded_file(options: argparse.Namespace, data: bytes):
  """Samples, rate, channels and blocks of a `.jxc` file."""
  from jaxcodec import bitstream
  from jaxcodec.entropy import container

  if options.bitrate is not None:
    raise terminal.UsageError(f"--bitrate is for {_PACKETS} files: a .jxc file says its own")
  header = container.read_header(data)
  streams = header.streams
  if options.stream is None and len(streams) > 1:
    raise terminal.UsageError(
      f"{terminal.name(options.input)} holds {len(streams)} streams: give --stream, from 0"
    )
  number = options.stream or 0
  if not 0 <= number < len(streams):
    raise terminal.UsageError(
      f"{terminal.name(options.input)} has no stream {number}: it holds {len(streams)}"
    )
  stream = container.sound_stream(header, number)
  if stream.batch != 1:
    raise CodecError(
      f"{terminal.name(options.input)} holds {stream.batch} signals; decode it from Python"
    )
  part = {"start": options.start, "duration": options.duration}
  try:
    first, stop = bitstream.sample_range(stream, **part)
  except ValueError as error:
    raise terminal.UsageError(str(error)) from None
  codec = None if options.codec is None else terminal.load(options.codec)
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
    raise terminal.UsageError("--stream, --start and --duration are for .jxc files")
  if options.codec is None or options.bitrate is None:
    raise terminal.UsageError(
      f"{_PACKETS} files say nothing of themselves: give --codec and --bitrate"
    )
  codec = _load_lyra(options.codec)
  bitrate = terminal.bitrate(codec, options.bitrate)
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


def _refuse_pictures(source, name: str, codec: str) -> None:
  from jaxcodec.image import files

  if files.is_picture(source):
    raise terminal.UsageError(
      f"{name} is a picture, and {codec} a codec of sound: give --codec DIR of one of pictures"
    )


def _load_lyra(name: str):
  from jaxcodec.audio.lyra import Lyra

  codec = terminal.load(name)
  if not isinstance(codec.module, Lyra):
    raise terminal.UsageError(f"{_PACKETS} files are for Lyra, and {name} is another codec")
  return codec


def classify(options: argparse.Namespace) -> None:
  source = terminal.source(options.input)
  import jax
  import numpy as np

  from jaxcodec.audio import classifier, files
  from jaxcodec.hub.classifier import load_classifier

  loaded = load_classifier(options.model)
  name = terminal.name(options.input)
  reader = files.SoundReader(source, name, classifier.SAMPLE_RATE, 1)
  if reader.change:
    terminal.say(f"{name}: {reader.change}")
  x = np.concatenate([np.zeros((1, 0, 1), np.float32), *reader.blocks()], axis=1)
  run = jax.jit(classifier.classify, static_argnames=("module", "frames"))
  try:
    logits = run(loaded.module, loaded.params, x[..., 0], frames=options.frames)[0]
  except ValueError as error:
    raise terminal.UsageError(str(error)) from None
  shares = np.asarray(jax.nn.sigmoid(logits))
  for place in np.argsort(-shares)[: options.top]:
    print(f"{shares[place]:.3f} {loaded.names[place]}")
