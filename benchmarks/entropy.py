"""Entropy coders side by side: symbols a second, and bytes over the information of the symbols.

Command: python benchmarks/entropy.py
With CompressAI and torchac: python benchmarks/entropy.py --peers PYTHON

PYTHON is an interpreter of an environment of its own that has them (CompressAI pins NumPy 1.26):
  pip install torch==2.13.0 "numpy<2" ninja && pip install --no-deps compressai torchac
Symbols are drawn from 64 discrete Gaussians of scales 0.11 to 64, log-uniform, a random one each,
by tables of 16 bits. Information is the tables' own: what no coder can beat. Times are the best of
three.
"""

import argparse
import functools
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec import terminal
from jaxcodec.entropy import lanes, rans64, tables
from jaxcodec.functional import rans

_SCALES = np.exp(np.linspace(np.log(0.11), np.log(64), 64))
_SIDE = 255  # Values are -255..255: beyond them is less than a count of the widest table.


def gaussian_tables(precision: int = 16) -> np.ndarray:
  """int64 [64, 512], each row rising strictly from 0 to 2^precision."""
  x = np.arange(-_SIDE, _SIDE + 1)
  weights = np.exp(-0.5 * (x / _SCALES[:, None]) ** 2)
  share = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
  cdf = np.floor(share * ((1 << precision) - len(x))).astype(np.int64) + np.arange(1, len(x) + 1)
  cdf[:, -1] = 1 << precision
  return np.concatenate([np.zeros((64, 1), np.int64), cdf], axis=1)


def drawn(cdf: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Rows and symbols int32 [N], as likely as the tables say."""
  rng = np.random.default_rng(0)
  rows, slot = rng.integers(0, len(cdf), count).astype(np.int32), rng.integers(0, cdf[0, -1], count)
  table = np.stack([np.repeat(np.arange(len(r) - 1), np.diff(r)) for r in cdf])
  return rows, table[rows, slot].astype(np.int32)


def best(function, repeats: int = 3) -> tuple[float, object]:
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    times.append(time.perf_counter() - start)
  return min(times), result


def report(name: str, count: int, size: float, ideal: float, times: list[float]) -> None:
  cells = " | ".join(f"{count / t / 1e6:.2f}" for t in times)
  print(f"| {name} | {count:,} | {100 * (size / ideal - 1):.3f}% | {cells} |", flush=True)


def host(rows, symbols, cdf, ideal: float) -> None:
  spent, data = best(lambda: tables.encode(symbols, rows, cdf))
  read, found = best(lambda: tables.decode(data, rows, cdf))
  _require_equal(found, symbols)
  report("host: `entropy.tables` (constriction)", len(rows), len(data), ideal, [spent, read])


def whole_stream(rows, symbols, cdf, ideal: float) -> None:
  sizes, offsets = [cdf.shape[1]] * len(cdf), [0] * len(cdf)
  padded = np.concatenate([cdf, np.full((len(cdf), 1), cdf[0, -1])], axis=1)
  call = functools.partial(rans64.encode, symbols, rows, padded, sizes, offsets)
  spent, data = best(call, 1)
  read, found = best(lambda: rans64.decode(data, rows, padded, sizes, offsets), 1)
  _require_equal(found, symbols)
  report("`entropy.rans64`, in Python", len(rows), len(data), ideal, [spent, read])


def in_lanes(rows, symbols, cdf, count_lanes: int, numpy: bool = False) -> None:
  ideal, precision = information(cdf, rows, symbols), int(cdf[0, -1]).bit_length() - 1
  rows, symbols = rows.reshape(-1, count_lanes), symbols.reshape(-1, count_lanes)
  start = cdf[rows, symbols].astype(np.uint32)
  freq = cdf[rows, symbols + 1].astype(np.uint32) - start
  if numpy:
    spent, streams = best(lambda: lanes.encode(start, freq, precision), 1)
    read, (found, intact) = best(lambda: lanes.decode(*streams, cdf, rows, precision), 1)
    counts, name = streams[1], "NumPy"
  else:
    encode = jax.jit(rans.encode, static_argnums=2)
    decode = jax.jit(rans.decode, static_argnums=3)
    given = [jnp.asarray(x) for x in (start, freq)]
    table, where = jnp.asarray(cdf, jnp.uint32), jnp.asarray(rows)
    jax.block_until_ready(decode(encode(*given, precision), table, where, precision))
    spent, streams = best(lambda: encode(*given, precision))
    read, (found, intact) = best(lambda: decode(streams, table, where, precision))
    counts, name = np.asarray(streams.counts), f"JAX, {jax.default_backend()}"
  _require_equal(np.asarray(found), symbols)
  if not np.asarray(intact).all():
    raise SystemExit("a lane does not end as it began")
  size = 2 * int(counts.sum()) + 4 * count_lanes
  report(
    f"{count_lanes:,} lanes of {precision} bits, {name}", rows.size, size, ideal, [spent, read]
  )


def peers(interpreter: str, rows, symbols, cdf, ideal: float) -> None:
  """CompressAI and torchac in their own environment, on the same symbols; bytes are compared."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "symbols.npz"
    np.savez(path, rows=rows, symbols=symbols, cdf=cdf)
    script = pathlib.Path(__file__).parent / "entropy_peers.py"
    out = subprocess.run([interpreter, script, path], check=True, capture_output=True, text=True)
    for found in json.loads(out.stdout.splitlines()[-1]):
      report(found["name"], len(rows), found["bytes"], ideal, found["seconds"])
    size = len(cdf[0])
    padded = np.concatenate([cdf, np.full((len(cdf), 1), cdf[0, -1])], axis=1)
    theirs = (pathlib.Path(folder) / "compressai.bin").read_bytes()
    ours = rans64.encode(symbols, rows, padded, [size] * 64, [0] * 64)
    read = rans64.decode(theirs, rows, padded, [size] * 64, [0] * 64)
    same = ours == theirs and np.array_equal(read, symbols)
  print(
    f"\n`entropy.rans64` and CompressAI, {len(rows):,} symbols: {'the same' if same else 'OTHER'}"
  )


def _require_equal(found, symbols) -> None:
  if not np.array_equal(found, symbols):
    raise SystemExit("the decoded symbols are others")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--peers", metavar="PYTHON", help="with compressai and torchac installed")
  parser.add_argument("--lanes", type=int, default=0, help="only this many lanes, 1,000 steps each")
  options = parser.parse_args()
  cdf = gaussian_tables()
  print("| coder | symbols | over the information | encode, M/s | decode, M/s |")
  print("|---|---:|---:|---:|---:|")
  if options.lanes:
    rows, symbols = drawn(cdf, options.lanes * 1000)
    in_lanes(rows, symbols, cdf, options.lanes)
    return
  for count in (100_000, 1_000_000):
    rows, symbols = drawn(cdf, count)
    ideal = information(cdf, rows, symbols)
    host(rows, symbols, cdf, ideal)
    for count_lanes in (4, 1000) if count == 100_000 else (1000,):
      in_lanes(rows, symbols, cdf, count_lanes, numpy=True)
      in_lanes(rows, symbols, cdf, count_lanes)
    if count == 100_000:
      # A state of 32 bits codes in 15 bits nearer to its tables than in 16.
      coarse = gaussian_tables(15)
      in_lanes(*drawn(coarse, count), coarse, 4)
      whole_stream(rows, symbols, cdf, ideal)
    if options.peers and count == 100_000:
      peers(options.peers, rows, symbols, cdf, ideal)


def information(cdf, rows, symbols) -> float:
  """Bytes of the symbols at the length that their tables give them."""
  share = (cdf[rows, symbols + 1] - cdf[rows, symbols]) / cdf[0, -1]
  return float(-np.log2(share).sum() / 8)


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  sys.exit(main())
