"""Prints the throughput of `launch.tokenize` beside that of the codec's bare encoding.

    python benchmarks/tokenize_speed.py SOUNDS [--codec speech-16khz] [--rounds 3]

Both code the same sounds on the same device in batches of the same shapes, in turn. The bare
encoding has them in memory at the codec's rate; the other reads and decodes files, and writes
shards. The first round of each compiles and is not counted.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("sounds", type=pathlib.Path)
  parser.add_argument("--codec", default="speech-16khz")
  parser.add_argument("--rounds", type=int, default=3)
  options = parser.parse_args()
  sys.path.insert(0, str(ROOT))
  import jax

  import jaxcodec
  from jaxcodec import bulk, tokens
  from jaxcodec.data import sources

  codec = jaxcodec.load(options.codec)
  source = sources.open_source(options.sounds, sources.SOUNDS)
  # In the order of the shards, so that batches are the same.
  waves = [bulk.read(codec, source[i]) for i in range(len(source))]
  seconds = sum(len(wave) for wave in waves) / codec.sample_rate
  encode = jax.jit(jaxcodec.encode)
  batches = [
    bulk.filled(batch, codec, jax.local_device_count())
    for batch in bulk.batches(
      codec, (bulk.Signal(i, wave) for i, wave in enumerate(waves)), jax.local_device_count()
    )
    if isinstance(batch, list)
  ]

  def bare() -> None:
    for x, length in batches:
      jax.block_until_ready(encode(codec, x, length=length))

  def whole() -> None:
    with tempfile.TemporaryDirectory() as out:
      tokens.write(codec, source, pathlib.Path(out), shard_size=len(source))

  speeds: dict[str, list[float]] = {"bare": [], "tokenize": []}
  for turn in range(options.rounds + 1):
    for name, function in (("bare", bare), ("tokenize", whole)):
      start = time.perf_counter()
      function()
      if turn:
        speeds[name].append(seconds / (time.perf_counter() - start))
  medians = {name: statistics.median(values) for name, values in speeds.items()}
  print(f"{len(source)} sounds, {seconds:.0f} s, {options.codec}")
  for name, speed in medians.items():
    print(f"{name:10} {speed:8.1f} times real time")
  print(f"ratio      {medians['tokenize'] / medians['bare']:8.1%}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
