"""Measures a codec over a dataset of sounds, on all devices of all processes.

Command: python -m launch.evaluate --codec C --dataset D [--bitrate N] [--json FILE]

Every process codes every n-th sound, and their sums are brought together, so the figures are those
of one device. On every host of a pod add `--distributed`. Bytes are those of codes packed into
bits; `jaxcodec evaluate` codes entropy as well, and compares with other programs. Exit status 1
says that data or codec cannot be used, 2 that the call is wrong.
"""

import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcodec import terminal
from jaxcodec.errors import CodecError

_MEASURES = ("si_sdr", "mel_distance", "stft_distance")


def main(arguments: list[str] | None = None) -> int:
  """Runs the command with `arguments`, `sys.argv` if None, and returns its exit status."""
  terminal.look_for_no_absent_accelerator()
  parser = terminal.Parser(prog="launch.evaluate", description="Measures a codec.")
  parser.add_argument("--codec", required=True, help="a name, directory or file, as for `load`")
  parser.add_argument("--dataset", type=pathlib.Path, required=True, help="folder, tar or dataset")
  parser.add_argument("--bitrate", type=int, help="bit/s; the codec's highest unless given")
  parser.add_argument("--json", type=pathlib.Path, help="a file for the figures")
  parser.add_argument("--threads", type=int, help="that read; else 4, or all cores")
  parser.add_argument("--distributed", action="store_true", help="one of several processes")
  try:
    options = parser.parse_args(arguments)
    if options.threads is not None and options.threads < 1:
      raise terminal.UsageError("--threads must be at least 1")
    if options.distributed:
      from launch import processes

      processes.join()
    import jax

    from jaxcodec import atomic
    from jaxcodec.data import sources
    from jaxcodec.hub.load import load_sound

    source = sources.open_source(options.dataset, sources.SOUNDS)
    found = evaluate(
      load_sound(options.codec), source, bitrate=options.bitrate, threads=options.threads
    )
  except (ValueError, CodecError) as error:
    print(f"launch.evaluate: {' '.join(str(error).split())}", file=sys.stderr)
    return 1 if isinstance(error, CodecError) else 2
  if jax.process_index():
    return 0
  for name, value in found.items():
    print(f"{name:14} {value:.4f}" if isinstance(value, float) else f"{name:14} {value}")
  if options.json is not None:
    atomic.write(options.json, (json.dumps(found, indent=2) + "\n").encode())
  return 0


def evaluate(
  codec,
  source: Sequence[Any],
  *,
  bitrate: int | None = None,
  threads: int | None = None,
  devices: Sequence[Any] | None = None,
) -> dict[str, float | int]:
  """Means over the sounds of a source that can be read; see docs/metrics.md for each.

  Raises:
    CodecError: if none can be read.
    ValueError: if the codec has no such bitrate.
  """
  import jax

  from jaxcodec import bulk, metrics

  if bitrate is not None and bitrate not in codec.bitrates:
    raise ValueError(f"codec {codec.name} has no bitrate {bitrate} bit/s")
  readers = bulk.READERS if threads is None else threads
  mine = range(jax.process_index(), len(source), jax.process_count())
  sizes = codec.codebook_sizes
  bits = np.log2(sizes)
  counts = np.zeros((len(sizes), max(sizes)))
  # Sums of files, files skipped, seconds, bits; then of each measure, and of files that have it.
  sums = np.zeros(4 + 2 * len(_MEASURES))

  def load(index: int):
    file = source[index]
    try:
      return file.name, bulk.read(codec, file)
    except CodecError as error:
      print(f"skipped {file.name}: {error}", file=sys.stderr, flush=True)
      return file.name, None

  def signals():
    for name, wave in bulk.ahead(load, mine, readers, 4 * readers):
      sums[1] += wave is None
      if wave is not None:
        yield bulk.Signal(name, wave)

  for coded in bulk.encode(codec, signals(), bitrate=bitrate, decode=True, devices=devices):
    wave, codes = coded.signal.wave, coded.codes
    sums[0] += 1
    sums[2] += len(wave) / codec.sample_rate
    sums[3] += len(codes) * bits[: codes.shape[1]].sum()
    for i, name in enumerate(_MEASURES):
      rate = (codec.sample_rate,) if name == "mel_distance" else ()
      try:
        value = getattr(metrics, name)(wave, coded.decoded, *rate)
      except ValueError:  # Too short or silent: the measure is not defined.
        value = math.nan
      if math.isfinite(value):
        sums[4 + 2 * i : 6 + 2 * i] += value, 1
    for stage in range(codes.shape[1]):
      counts[stage] += np.bincount(codes[:, stage], minlength=counts.shape[1])
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    # As bytes: without 64 bits JAX would round them.
    every = multihost_utils.process_allgather(np.frombuffer(sums.tobytes(), np.uint8))
    sums = np.stack([np.frombuffer(row.tobytes()) for row in every]).sum(axis=0)
    every = multihost_utils.process_allgather(np.frombuffer(counts.tobytes(), np.uint8))
    counts = np.stack([np.frombuffer(row.tobytes()) for row in every]).sum(axis=0)
    counts = counts.reshape(len(sizes), -1)
  return _figures(sums, counts)


def _figures(sums: np.ndarray, counts: np.ndarray) -> dict[str, float | int]:
  files, skipped, seconds, bits = sums[:4]
  if not files:
    raise CodecError(f"none of {int(skipped)} sounds can be read")
  counts = counts[counts.sum(axis=1) > 0]
  shares = counts / counts.sum(axis=1, keepdims=True)
  entropy = -(shares * np.log2(shares, where=shares > 0, out=np.zeros_like(shares))).sum(axis=1)
  figures: dict[str, float | int] = {
    "files": int(files),
    "skipped": int(skipped),
    "seconds": float(seconds),
    "kbps": float(bits / seconds / 1000),
  }
  for i, name in enumerate(_MEASURES):
    total, defined = sums[4 + 2 * i : 6 + 2 * i]
    figures[name] = float(total / defined) if defined else math.nan
  figures["codebook_used"] = float((counts > 0).mean())
  figures["perplexity"] = float((2**entropy).mean())
  return figures


if __name__ == "__main__":
  sys.exit(main())
