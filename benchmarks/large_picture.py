"""A picture of a hundred megapixels to a file and back: peak memory, seconds, and what seams cost.

Command: python -m benchmarks.large_picture PICTURE [--codec NAME|DIR] [--side 10000]

PICTURE is repeated, mirrored, until it fills a square of `side` pixels, with its own noise left as
it is. Each step runs as a command in a process of its own, whose peak of memory the system counts.
Seams: squared errors of the pixels within eight of an edge between tiles beside those of all
others, and of the same places of a file without tiles, for the picture alone in tiles of 128.
Beginnings: what the first chunks of a progressive file of it give.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from jaxcodec import picture_file, terminal
from jaxcodec.entropy import container

_EDGE = 8  # Pixels on either side.


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("picture", type=pathlib.Path)
  parser.add_argument("--codec", default=terminal.PICTURE_CODEC)
  parser.add_argument("--side", type=int, default=10_000, help="0: no large picture")
  options = parser.parse_args()
  terminal.look_for_no_absent_accelerator()
  pixels = np.asarray(Image.open(options.picture).convert("RGB"))
  seams(options.codec, pixels)
  beginnings(options.codec, pixels)
  if options.side == 0:
    return
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    _write_large(pixels, options.side, folder / "large.png")
    large = f"{options.side} x {options.side}"
    print(f"\n| {large} pixels | seconds | peak, MB | file, bytes |\n|---|---:|---:|---:|")
    coded = folder / "large.jxc"
    codec = ["--codec", options.codec]
    _step("encode", "encode", folder / "large.png", coded, *codec)
    _step("decode", "decode", coded, folder / "back.png", *codec)
    middle = options.side // 2
    region = ["--region", f"{middle},{middle},640,480"]
    _step("640 x 480 of it", "decode", coded, folder / "part.png", *codec, *region)
    data = coded.read_bytes()
    for share in (0.05, 0.3):
      (folder / "cut.jxc").write_bytes(data[: int(share * len(data))])
      what = f"640 x 480 of the first {share:.0%}"
      _step(what, "decode", folder / "cut.jxc", folder / "cut.png", *codec, *region, "--partial")
      found, own = (np.asarray(Image.open(folder / f)) for f in ("cut.png", "large.png"))
      own = own[middle : middle + 480, middle : middle + 640]
      print(f"| its PSNR | {_decibels(_errors(found, own).mean()):.2f} dB | | |")


def seams(codec_name: str, pixels: np.ndarray) -> None:
  """Prints PSNR near the edges of tiles and elsewhere, with tiles and without."""
  codec = terminal.load_picture(codec_name)
  height, width, _ = pixels.shape
  rows, columns = (np.arange(size) for size in (height, width))
  near = [(n >= 128 - _EDGE) & ((n + _EDGE) % 128 < 2 * _EDGE) for n in (rows, columns)]
  edge = near[0][:, None] | near[1][None]
  print("| pixels | share | in tiles of 128, dB | without, dB |\n|---|---:|---:|---:|")
  found = []
  for tile in (128, None):
    data = picture_file.compress(codec, pixels[None], tile=tile)
    back = picture_file.decompress_samples(data, codec, max_memory=2**40)
    found.append((_errors(back, pixels), len(data)))
  for name, where in (("near an edge", edge), ("elsewhere", ~edge)):
    cells = [f"{_decibels(errors[where].mean()):.3f}" for errors, _ in found]
    print(f"| {name} | {where.mean():.2f} | {' | '.join(cells)} |")
  print(f"\n{found[0][1]} bytes with tiles of 128, {found[1][1]} without")


def beginnings(codec_name: str, pixels: np.ndarray) -> None:
  """Prints PSNR after each part of a progressive file."""
  codec = terminal.load_picture(codec_name)
  data = picture_file.compress(codec, pixels[None], progressive=True)
  whole = len(picture_file.compress(codec, pixels[None]))
  print(f"\n{len(data)} bytes progressive, {whole} not\n")
  print("| bytes | share | PSNR, dB |\n|---:|---:|---:|")
  for end in container.read_layout(data).starts[0][1:]:
    part = picture_file.Part(cut=True)
    back = picture_file.decompress_samples(data[:end], codec, max_memory=2**40, part=part)
    print(f"| {end} | {end / len(data):.0%} | {_decibels(_errors(back, pixels).mean()):.2f} |")


def _errors(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  return np.square(a.astype(np.float64) - b).mean(axis=-1)


def _decibels(error: float) -> float:
  return 20 * np.log10(255) - 10 * np.log10(error)


def _write_large(pixels: np.ndarray, side: int, path: pathlib.Path) -> None:
  mirrored = np.concatenate([pixels, pixels[::-1]])
  mirrored = np.concatenate([mirrored, mirrored[:, ::-1]], axis=1)
  rows, columns = (np.arange(side) % size for size in mirrored.shape[:2])
  Image.fromarray(mirrored[rows[:, None], columns]).save(path, compress_level=1)


def _step(what: str, *arguments: object) -> None:
  call = [sys.executable, "-m", "jaxcodec.cli", *map(str, arguments), "--force"]
  start = time.perf_counter()
  process = subprocess.Popen(call, stderr=subprocess.DEVNULL)
  _, status, used = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  if process.returncode:
    raise SystemExit(f"{what} failed")
  seconds, peak = time.perf_counter() - start, used.ru_maxrss / 1e3
  size = pathlib.Path(str(arguments[2])).stat().st_size
  print(f"| {what} | {seconds:.1f} | {peak:.0f} | {size} |", flush=True)


if __name__ == "__main__":
  main()
