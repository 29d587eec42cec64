"""What the learned prior of `speech-16khz` saves in files of held-out speakers, and its speed.

Command: python benchmarks/learned_prior.py --data SPEECH_DIR

SPEECH_DIR holds `speech_test.tar`. Sizes are those of all `.jxc` files together. Speed is that of
one minute of test speech through `jaxcodec encode` and `jaxcodec decode`, whole processes, first
with an empty cache of compiled programs, then with that cache.
"""

import argparse
import io
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import replace

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import track

import jaxcodec
from jaxcodec import terminal
from jaxcodec.entropy import adaptive, container, learned
from jaxcodec.entropy.header import Header

_BITRATES = (1000, 2000, 3000, 6000)
_CLI = [sys.executable, "-m", "jaxcodec.cli"]


def read_clips(path: pathlib.Path) -> dict[str, np.ndarray]:
  with tarfile.open(path) as tar:
    files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
    return {
      name: soundfile.read(io.BytesIO(file.read()), dtype="float32")[0]
      for name, file in files.items()
      if file is not None
    }


def files(codec, waves: list[np.ndarray], what: str) -> list[bytes]:
  """Adaptively coded files of the highest rate."""
  bar = track(waves, what, transient=True, console=Console(stderr=True))
  return [jaxcodec.compress(codec, wave[None, :, None]) for wave in bar]


def sizes(codec, top: list[bytes], bitrate: int) -> tuple[int, int]:
  """Bytes of all files at `bitrate` with adaptive coding, and under the learned prior.

  A lower rate's codes are the first ones of each frame, so the signals are coded once; and chunks
  of many files go through the network together. Both make the very bytes of `jaxcodec.compress`.
  """
  books, counts = codec.module.num_active(bitrate), np.asarray(codec.prior)
  prior = counts[:books]
  read = [[c[..., :books] for c, _ in container.read_chunks(file, counts)] for file in top]
  every = iter(learned.encode(codec.learned, [codes for chunks in read for codes in chunks]))
  digests, found = (None, learned.digest(codec.learned)), np.zeros(2, np.int64)
  for file, chunks in zip(top, read, strict=True):
    (stream,) = container.read_header(file).streams
    lower = stream.codebook_sizes[:books]
    crc = adaptive.prior_crc(prior, lower)
    headers = [
      Header(streams=(replace(stream, codebook_sizes=lower, prior_crc=crc, learned_digest=digest),))
      for digest in digests
    ]
    records: tuple[list[bytes], list[bytes]] = [], []
    for i, codes in enumerate(chunks):
      for kind, header, coded in zip(records, headers, (None, next(every)), strict=True):
        kind.append(container.encode_chunk(header, i, codes, None, prior, coded))
    found += [len(container.write(*pair)) for pair in zip(headers, records, strict=True)]
  return int(found[0]), int(found[1])


def check(codec, wave: np.ndarray) -> None:
  """Stops unless `sizes` counts the bytes of `compress`, and both files give the same signal."""
  x = wave[None, :, None]
  for bitrate in (_BITRATES[0], _BITRATES[-1]):
    whole = [jaxcodec.compress(codec, x, bitrate=bitrate, learned=kind) for kind in (False, True)]
    if sizes(codec, [jaxcodec.compress(codec, x)], bitrate) != tuple(map(len, whole)):
      raise SystemExit("the sizes are not those of files")
    if not np.array_equal(*(jaxcodec.decompress(file, codec) for file in whole)):
      raise SystemExit("the two files hold other signals")


def speeds(waves: list[np.ndarray], folder: pathlib.Path) -> None:
  minute = np.concatenate(waves)[: 60 * 16_000]
  soundfile.write(folder / "minute.wav", minute, 16_000)
  print("| one minute at 6 kbit/s | encode, compiling | encode | decode, compiling | decode |")
  print("|---|---:|---:|---:|---:|")
  for prior in ("adaptive", "learned"):
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / prior)}
    calls = {
      "encode": ["encode", "minute.wav", f"{prior}.jxc", "--prior", prior, "--force"],
      "decode": ["decode", f"{prior}.jxc", f"{prior}.wav", "--force"],
    }
    cells = []
    for call in calls.values():
      for _ in range(2):
        start = time.perf_counter()
        subprocess.run(_CLI + call, cwd=folder, env=environment, check=True, capture_output=True)
        cells.append(f"{60 / (time.perf_counter() - start):.1f}x")
    print(f"| {prior} | {' | '.join(cells)} |", flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--only", choices=("sizes", "speeds"), help="one table alone")
  options = parser.parse_args()
  clips = read_clips(options.data / "speech_test.tar")
  if options.only != "speeds":
    codec = jaxcodec.load("speech-16khz")
    print("| speech | asked, kbit/s | adaptive, bytes | learned, bytes | saved |")
    print("|---|---:|---:|---:|---:|")
    sources = {"LibriSpeech": ".flac", "speechocean762": ".opus"}
    top = {
      source: files(codec, [w for name, w in clips.items() if name.endswith(suffix)], source)
      for source, suffix in sources.items()
    }
    check(codec, next(iter(clips.values())))
    for bitrate in _BITRATES:
      each = [sizes(codec, top[source], bitrate) for source in sources]
      for source, both in zip(sources, each, strict=True):
        print(row(source, bitrate, both), flush=True)
      print(row("both", bitrate, np.sum(each, axis=0)), flush=True)
  if options.only != "sizes":
    with tempfile.TemporaryDirectory() as folder:
      speeds([w for name, w in clips.items() if name.endswith(".flac")], pathlib.Path(folder))


def row(source: str, bitrate: int, both) -> str:
  saved = 100 * (1 - both[1] / both[0])
  return f"| {source} | {bitrate / 1000:g} | {both[0]:,} | {both[1]:,} | {saved:.1f}% |"


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
