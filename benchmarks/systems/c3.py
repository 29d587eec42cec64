"""C3 fitted to one crop of a photograph: its recipe, COOL-CHIC's, and JPEG and WebP at equal bytes.

Command: python -m benchmarks.systems.c3 PICTURE [--side 128] [--steps 4000] [--weights 1e-3]
  [--speed]

The crop is the middle of PICTURE. Both recipes have the same networks, steps, seed and learning
rates: C3's rounds softly with Kumaraswamy noise, then straight through soft rounding; COOL-CHIC's
adds uniform noise, then passes gradients through rounding as they are. Bytes are those of whole
files, networks included; each is read by another process, which prints the hash of its integers.
With --speed: seconds to write and read drawn integers of 768 x 512 pixels under drawn networks of
the published sizes.
"""

import argparse
import dataclasses
import hashlib
import pathlib
import subprocess
import sys
import time

import numpy as np
from PIL import Image

from jaxcodec import fitted_picture, metrics, picture_baselines, picture_file, terminal
from jaxcodec.image import c3_code
from jaxcodec.image.c3 import grid_shapes
from jaxcodec.image.c3_fit import Fit


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("picture", type=pathlib.Path)
  parser.add_argument("--side", type=int, default=128)
  parser.add_argument("--steps", type=int, default=4000)
  parser.add_argument("--weights", type=float, nargs="*", default=[1e-3])
  parser.add_argument("--hash", action="store_true", help="of PICTURE, a .jxc file's integers")
  parser.add_argument("--speed", action="store_true")
  options = parser.parse_args()
  terminal.look_for_no_absent_accelerator()
  if options.hash:
    print(_hash(options.picture.read_bytes()))
    return
  if options.speed:
    speed()
    return
  pixels = np.asarray(Image.open(options.picture).convert("RGB"))
  top, left = ((size - options.side) // 2 for size in pixels.shape[:2])
  pixels = np.ascontiguousarray(pixels[top : top + options.side, left : left + options.side])
  print(f"{options.side} x {options.side} pixels, {options.steps} + {options.steps // 10} steps")
  print("| weight | codec | bytes | of them networks | bits/pixel | PSNR, dB | loss | seconds |")
  print("|---:|---|---:|---:|---:|---:|---:|---:|", flush=True)
  for weight in options.weights:
    for plain in (False, True):
      row(pixels, Fit(rd_weight=weight, plain=plain), options.steps)


def speed() -> None:
  """Prints what coding takes; the networks' floats that fitting works with are left aside."""
  shape, rng, size = c3_code.shape_of(Fit()), np.random.default_rng(0), (512, 768)
  arrays = {
    path: np.rint(rng.laplace(0, 20, dims)).astype(np.int64) for path, dims in shape.sizes().items()
  }
  # Finer grids hold smaller integers, as they do once fitted.
  grids = [
    np.rint(rng.laplace(0, 0.15 * 2**k, dims)).astype(np.int64)
    for k, dims in enumerate(grid_shapes(*size, 7))
  ]
  found = c3_code.Integers((5, 5), arrays, grids)
  start = time.perf_counter()
  data = c3_code.encode(shape, found)
  middle = time.perf_counter()
  back = c3_code.decode(shape, data, *size)
  end = time.perf_counter()
  if not all((a == b).all() for a, b in zip(back.grids, grids, strict=True)):
    raise SystemExit("other integers came back")
  count = sum(grid.size for grid in grids)
  write, read = middle - start, end - middle
  print(f"{count} integers, {len(data)} bytes: {write:.2f} s to write, {read:.2f} s to read")


def row(pixels: np.ndarray, fit: Fit, steps: int) -> None:
  """Prints what a recipe comes to, and for C3's what others do with as many bytes."""
  fit = dataclasses.replace(fit, noise_steps=steps, rounded_steps=steps // 10)
  start = time.perf_counter()
  (data,) = fitted_picture.compress_many(pixels[None], fit)
  seconds = time.perf_counter() - start
  back = picture_file.decompress_samples(data, max_memory=2**40)
  name = "COOL-CHIC's recipe" if fit.plain else "C3"
  shape, found = _integers(data)
  networks = len(c3_code.encode(shape, found._replace(grids=[])))
  _say(fit, name, pixels, back, len(data), f"{networks}", f"{seconds:.0f}")
  call = [sys.executable, "-m", "benchmarks.systems.c3", "--hash", "/dev/stdin"]
  read = subprocess.run(call, input=data, check=True, capture_output=True).stdout.decode().strip()
  if read != _hash(data):
    raise SystemExit("another process read other integers")
  if not fit.plain:
    jpeg, quality = picture_baselines.jpeg_of(pixels, len(data))
    _say(fit, f"JPEG, quality {quality}", pixels, jpeg.pixels, jpeg.num_bytes)
    coded = [picture_baselines.code("WEBP", n, {"method": 6}, pixels) for n in range(101)]
    quality = max(n for n, some in enumerate(coded) if some.num_bytes <= len(data) or n == 0)
    best = coded[quality]
    _say(fit, f"WebP, quality {quality}", pixels, best.pixels, best.num_bytes)


def _say(
  fit: Fit, name: str, pixels, back, size: int, networks: str = "", seconds: str = ""
) -> None:
  bits = 8 * size / (pixels.shape[0] * pixels.shape[1])
  error = np.mean(np.square(pixels.astype(np.float64) - back)) / 255**2
  cells = (
    f"{bits:.3f}",
    f"{metrics.psnr(pixels, back):.2f}",
    f"{error + fit.rd_weight * bits:.6f}",
  )
  print(
    f"| {fit.rd_weight:g} | {name} | {size} | {networks} | {' | '.join(cells)} | {seconds} |",
    flush=True,
  )


def _integers(data: bytes):
  return fitted_picture.integers(data, picture_file.picture_of(data, None)[1])


def _hash(data: bytes) -> str:
  """Of all integers of a file."""
  shape, integers = _integers(data)
  state = hashlib.sha256()
  for array in (*(integers.arrays[path] for path in shape.sizes()), *integers.grids):
    state.update(array.astype("<i8").tobytes())
  return state.hexdigest()


if __name__ == "__main__":
  main()
