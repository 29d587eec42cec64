"""Lyra V2 with its published weights on held-out speech: rates, distances, and what it promises.

Command: python benchmarks/systems/lyra.py --codec MODEL_COEFFS --data SPEECH_DIR

MODEL_COEFFS holds Lyra's three `.tflite` files, SPEECH_DIR holds `speech_test.tar`. One row a rate:
bytes of a frame's packet; rate of the `.jxc` files of all clips, and of one whose tables learn from
all clips in turn; means over clips of the distances; the largest difference between the wave of a
clip decoded in chunks of one frame and whole.
"""

import argparse
import functools
import io
import itertools
import pathlib
import tarfile
import time

import jax
import numpy as np
import soundfile
from rich.console import Console
from rich.progress import track

import jaxcodec
from jaxcodec import chunked, metrics, terminal
from jaxcodec.entropy import adaptive, lyra_packets

CHUNK = 10 * 16_000  # Samples of the one shape that is compiled.


def read_clips(path: pathlib.Path, count: int) -> list[np.ndarray]:
  """The first clips by name, `[time]`."""
  with tarfile.open(path) as tar:
    members = sorted((m for m in tar if m.isfile()), key=lambda member: member.name)
    files = [tar.extractfile(member) for member in members[:count]]
    return [soundfile.read(io.BytesIO(f.read()), dtype="float32")[0] for f in files if f]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--codec", required=True)
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--clips", type=int, default=24)
  parser.add_argument("--exact", action="store_true", help="8-bit integers instead of floats")
  options = parser.parse_args()
  codec = jaxcodec.load(options.codec, exact=options.exact)
  clips = read_clips(options.data / "speech_test.tar", options.clips)
  seconds = sum(map(len, clips)) / codec.sample_rate
  print(f"{len(clips)} clips, {seconds:.0f} s, {'8-bit integers' if options.exact else 'floats'}\n")
  print(
    "| kbit/s | bytes a frame | .jxc files, kbit/s | one adaptive stream | mel distance "
    "| STOI | streamed - whole | speed |"
  )
  print("|---:|---:|---:|---:|---:|---:|---:|---:|")
  rows = [row(codec, clips, bitrate) for bitrate in codec.bitrates]
  falls = all(low > high for low, high in itertools.pairwise(rows))
  print(f"\nThe mel distance {'falls' if falls else 'does not fall'} with the rate.")


def row(codec, clips: list[np.ndarray], bitrate: int) -> float:
  """Prints a rate's row; returns the mel distance."""
  # The first call compiles.
  jaxcodec.decompress(jaxcodec.compress(codec, clips[0][None, :, None], bitrate=bitrate), codec)
  files, spent, distances, codes = 0, 0.0, [], []
  where = Console(stderr=True)
  quiet = not where.is_terminal
  for wave in track(clips, f"{bitrate} bit/s", transient=True, console=where, disable=quiet):
    x = wave[None, :, None]
    start = time.perf_counter()
    data = jaxcodec.compress(codec, x, bitrate=bitrate)
    decoded = jaxcodec.decompress(data, codec)[0, :, 0]
    spent += time.perf_counter() - start
    files += len(data)
    chunks = chunked.encode_blocks(codec, [x], CHUNK // codec.hop_length, bitrate=bitrate)
    codes.extend(part for part, _ in chunks)
    distances.append(
      (
        metrics.mel_distance(wave, decoded, codec.sample_rate),
        metrics.stoi(wave, decoded, codec.sample_rate),
      )
    )
  together = np.concatenate(codes, axis=1)
  packets = len(lyra_packets.pack_packets(together[0]))
  coded = len(adaptive.encode(together, codec.codebook_sizes[: together.shape[2]]))
  seconds = sum(map(len, clips)) / codec.sample_rate
  mel, stoi = np.mean(distances, axis=0)
  print(
    f"| {bitrate / 1000:g} | {packets / together.shape[1]:g} | {8e-3 * files / seconds:.2f} "
    f"| {1 - coded / packets:+.1%} saved | {mel:.3f} | {stoi:.3f} "
    f"| {stream_error(codec, clips[0], bitrate):.0e} | {seconds / spent:.0f}x |",
    flush=True,
  )
  return mel


def stream_error(codec, wave: np.ndarray, bitrate: int) -> float:
  """Largest difference to the whole of the first two seconds; the codes must be the same."""
  x = wave[None, : 100 * codec.hop_length, None]
  encode_chunk = jax.jit(functools.partial(jaxcodec.encode_chunk, bitrate=bitrate))
  decode_chunk = jax.jit(jaxcodec.decode_chunk)
  whole = jax.jit(functools.partial(jaxcodec.encode, bitrate=bitrate))(codec, x)
  state, parts, waves = jaxcodec.init_stream(codec), [], []
  for start in range(0, x.shape[1], codec.hop_length):
    state, part = encode_chunk(codec, state, x[:, start : start + codec.hop_length])
    state, y = decode_chunk(codec, state, part)
    parts.append(part)
    waves.append(y)
  if np.any(np.concatenate(parts, axis=1) != whole):
    raise SystemExit("streamed codes differ from those of the whole")
  difference = np.concatenate(waves, axis=1) - jax.jit(jaxcodec.decode)(codec, whole)
  return float(np.abs(difference).max())


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
