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

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import track

import jaxcodec
from jaxcodec.entropy import container

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


def sizes(codec, waves: list[np.ndarray], bitrate: int, what: str) -> tuple[int, int]:
  """Bytes of all files with adaptive coding and under the learned prior, of the same codes."""
  found = np.zeros(2, np.int64)
  prior = np.asarray(codec.prior)[: codec.module.num_active(bitrate)]
  for wave in track(waves, what, transient=True, console=Console(stderr=True)):
    files = [
      jaxcodec.compress(codec, wave[None, :, None], bitrate=bitrate, learned=learned)
      for learned in (False, True)
    ]
    codes = [[c for c, _ in container.read_chunks(file, prior, codec.learned)] for file in files]
    if not all(np.array_equal(a, b) for a, b in zip(*codes, strict=True)):
      raise SystemExit("the two files hold other codes")
    found += [len(file) for file in files]
  return int(found[0]), int(found[1])


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
    for bitrate in _BITRATES:
      total = np.zeros(2, np.int64)
      for source, suffix in (("LibriSpeech", ".flac"), ("speechocean762", ".opus")):
        waves = [wave for name, wave in clips.items() if name.endswith(suffix)]
        both = sizes(codec, waves, bitrate, f"{source} {bitrate}")
        total += both
        print(row(source, bitrate, both), flush=True)
      print(row("both", bitrate, total), flush=True)
  if options.only != "sizes":
    with tempfile.TemporaryDirectory() as folder:
      speeds([w for name, w in clips.items() if name.endswith(".flac")], pathlib.Path(folder))


def row(source: str, bitrate: int, both) -> str:
  saved = 100 * (1 - both[1] / both[0])
  return f"| {source} | {bitrate / 1000:g} | {both[0]:,} | {both[1]:,} | {saved:.1f}% |"


if __name__ == "__main__":
  main()
