"""`jaxcodec encode` and `decode` of pictures: picture files to `.jxc` files and back."""

import argparse
import functools
import io
import pathlib
import sys
import time

from jaxcodec import terminal


def is_latent(codec) -> bool:
  from jaxcodec.image.latent_codec import LatentCodec

  return isinstance(codec, LatentCodec)


def encode(options: argparse.Namespace, codec, source) -> None:
  """Codes the picture file that `source` holds."""
  from jaxcodec.image import files

  name = terminal.name(options.input)
  if options.bitrate is not None or options.prior == "learned":
    raise terminal.UsageError("--bitrate and --prior are for sound")
  metadata = terminal.metadata(options, source)
  pixels = files.read_picture(source, name)
  if pixels.change:
    terminal.say(f"{name}: {pixels.change}")
  compress = _compress(options)
  start = time.monotonic()
  try:
    data = compress(
      codec,
      pixels.samples,
      channels=pixels.channels,
      profile=pixels.profile,
      metadata=metadata,
      tile=options.tile,
      progressive=options.progressive,
    )
  except ValueError as error:  # A system without files, or a latent that none can hold.
    raise terminal.UsageError(str(error)) from None
  terminal.write(options.output, data)
  _say_encoded(options, data, pixels.samples.shape[1:3], start)


def encode_fitted(options: argparse.Namespace, source) -> None:
  """Codes the picture file that `source` holds with networks of its own."""
  from rich.console import Console
  from rich.progress import Progress

  from jaxcodec import fitted_picture
  from jaxcodec.image import files

  name = terminal.name(options.input)
  given = (options.bitrate, options.target_bpp, options.target_psnr, options.tile)
  if any(value is not None for value in given) or options.prior == "learned" or options.progressive:
    raise terminal.UsageError(f"--codec {terminal.FITTED_CODEC} takes --quality and --steps")
  metadata = terminal.metadata(options, source)
  pixels = files.read_picture(source, name)
  if pixels.change:
    terminal.say(f"{name}: {pixels.change}")
  start = time.monotonic()
  try:
    fit = fitted_picture.fit_of(options.quality, options.steps)
    with Progress(console=Console(stderr=True), transient=True) as bar:
      task = bar.add_task("fitting", total=fit.noise_steps + fit.rounded_steps)
      (data,) = fitted_picture.compress_many(
        pixels.samples,
        fit,
        channels=pixels.channels,
        profile=pixels.profile,
        metadata=metadata,
        progress=lambda steps: bar.update(task, completed=steps),
      )
  except ValueError as error:
    raise terminal.UsageError(str(error)) from None
  terminal.write(options.output, data)
  _say_encoded(options, data, pixels.samples.shape[1:3], start)


def _say_encoded(options: argparse.Namespace, data: bytes, size, start: float) -> None:
  height, width = size
  terminal.say(
    f"{terminal.name(options.output, 'stdout')}: {len(data)} bytes for {width} x {height} pixels, "
    f"{8 * len(data) / (height * width):.4f} bits a pixel, {time.monotonic() - start:.2f} s"
  )


def _compress(options: argparse.Namespace):
  """The function that makes a file of the quality or the target that the call names."""
  from jaxcodec import picture_file, picture_target

  given = [options.quality, options.target_bpp, options.target_psnr]
  if given.count(None) < 2:
    raise terminal.UsageError("give one of --quality, --target-bpp and --target-psnr")
  if options.refine < 0 or (options.trade_off is not None and not options.refine):
    raise terminal.UsageError("--refine takes a number of steps, and --trade-off goes with it")
  if options.target_bpp is None and options.target_psnr is None:
    return functools.partial(
      picture_file.compress,
      quality=options.quality,
      refine=options.refine,
      trade_off=options.trade_off,
    )
  if options.refine:
    raise terminal.UsageError("--refine goes with --quality, not with a target")
  return functools.partial(
    picture_target.compress_to, bits_per_pixel=options.target_bpp, psnr=options.target_psnr
  )


def decode(options: argparse.Namespace, data: bytes) -> None:
  """Decodes a picture's file."""
  from jaxcodec import atomic, picture_file
  from jaxcodec.image import files

  path = pathlib.Path("stdout.png" if options.output == "-" else options.output)
  kind = files.picture_format(path)
  if kind is None:
    offered = ", ".join(files.FORMATS)
    raise terminal.UsageError(f"{path.name}: a picture is written as one of {offered}")
  if options.start or options.duration is not None or options.bitrate is not None:
    raise terminal.UsageError("--start, --duration and --bitrate are for sound")
  _, described = picture_file.picture_of(data, options.stream)
  codec = None
  if described.networks:
    if options.codec not in (None, terminal.FITTED_CODEC):
      raise terminal.UsageError("the file has networks of its own, and takes no --codec")
  elif options.codec is not None:
    codec = terminal.load_any(options.codec)
    if not is_latent(codec):
      raise terminal.UsageError(
        f"{options.codec} is a codec of sound, and the file holds a picture"
      )
  elif described.codec in picture_file.bundled():
    codec = picture_file.bundled_codec(described)
  else:
    raise terminal.UsageError(f"the file needs the codec {described.codec!r}: give --codec")
  start = time.monotonic()
  part = picture_file.Part(options.region, options.partial)
  try:
    pixels = picture_file.decompress_samples(
      data, codec, stream=options.stream, max_memory=options.max_memory, part=part
    )
  except ValueError as error:
    raise terminal.UsageError(str(error)) from None
  if options.output == "-":
    picture = io.BytesIO()
    files.write_picture(picture, kind, pixels, described.profile)
    sys.stdout.buffer.write(picture.getvalue())
  else:
    with atomic.replacing(path) as temporary:
      files.write_picture(temporary, kind, pixels, described.profile)
  name = terminal.name(options.output, "stdout")
  size = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
  terminal.say(f"{name}: {size}, {time.monotonic() - start:.2f} s")
