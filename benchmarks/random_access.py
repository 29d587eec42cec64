"""Parts of a file against the whole: what a decoder reaches, and the largest difference.

  python -m benchmarks.random_access --data DATA

Codes are random, a minute of them. `speech-16khz` and Lyra have their own weights; EnCodec, DAC and
Mimi have the published shapes and random ones. DATA is the folder that holds `lyra/`.
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxcodec
from jaxcodec import bitstream, chunked, terminal
from jaxcodec.audio.dac import Dac
from jaxcodec.audio.encodec import Encodec
from jaxcodec.audio.mimi import Mimi, MimiConfig
from jaxcodec.codec import fingerprint
from jaxcodec.entropy import container
from jaxcodec.layers.dac import DacConfig
from jaxcodec.layers.seanet import SEANetConfig

SECONDS = 60
PARTS = ((30.0, 5.0), (12.34, 0.5), (57.0, 3.0))


def random_codec(name: str, module) -> jaxcodec.Codec:
  """Weights as large as trained ones are, so that sounds are neither silence nor clipped."""
  x = jax.ShapeDtypeStruct((1, 48_000, module.channels), jnp.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    if path[-1].key in ("alpha", "scale"):
      return np.ones(leaf.shape, np.float32)
    if leaf.ndim == 1:
      return 0.01 * rng.normal(size=leaf.shape).astype(np.float32)
    fan = np.prod(leaf.shape[:-1]) ** -0.5 if path[-1].key != "codebooks" else 0.3
    return (fan * rng.normal(size=leaf.shape)).astype(np.float32)

  params = jax.tree_util.tree_map_with_path(draw, shapes)
  sizes = module.codebook_sizes
  prior = jnp.ones((len(sizes), max(sizes)), jnp.int32)
  return jaxcodec.Codec(module=module, params=params, prior=prior, name=name)


def codecs(data: pathlib.Path):
  yield "speech-16khz", jaxcodec.load("speech-16khz")
  yield "Lyra V2", jaxcodec.load(data / "lyra")
  yield "Lyra V2, exact", jaxcodec.load(data / "lyra", exact=True)
  seanet = {"codebook_size": 1024, "num_codebooks": 8, "bitrates": (6000,)}
  yield (
    "EnCodec 24 kHz",
    random_codec("a", Encodec(sample_rate=24_000, net=SEANetConfig(), **seanet)),
  )
  net = SEANetConfig(channels=2, causal=False, norm="time_group")
  segments = {"segment_length": 48_000, "segment_stride": 47_520}
  yield (
    "EnCodec 48 kHz",
    random_codec("b", Encodec(sample_rate=48_000, net=net, **segments, **seanet)),
  )
  dac = {"num_codebooks": 9, "codebook_size": 1024, "bitrates": (7752,)}
  yield "DAC 44.1 kHz", random_codec("c", Dac(sample_rate=44_100, net=DacConfig(), **dac))
  net = SEANetConfig(
    num_filters=64,
    strides=(4, 5, 6, 8),
    dimension=512,
    last_kernel_size=3,
    num_lstm_layers=0,
    pad_mode="zero",
    conv_shortcut=False,
  )
  mimi = {"num_codebooks": 8, "codebook_size": 2048, "bitrates": (1100,)}
  module = Mimi(sample_rate=24_000, config=MimiConfig(net=net), codebook_features=256, **mimi)
  yield "Mimi", random_codec("d", module)


def file_of(codec, seconds: float) -> bytes:
  """A file of random codes."""
  rng, length = np.random.default_rng(0), round(seconds * codec.sample_rate)
  frames = chunked.chunk_frames(codec, bitstream.CHUNK_SECONDS)
  stream = container.Stream(
    codec=codec.name,
    weights_hash=fingerprint(codec),
    sample_rate=codec.sample_rate,
    channels=codec.channels,
    batch=1,
    num_samples=length,
    hop_length=codec.hop_length,
    num_frames=chunked.stored_frames(codec, length),
    frames_per_chunk=frames,
    segment_frames=codec.module.segment_frames,
    codebook_sizes=codec.codebook_sizes,
  )
  header, records = container.Header(streams=(stream,)), []
  for index, shape in enumerate(container.chunk_shapes(stream)):
    codes = rng.integers(stream.codebook_sizes, size=shape)
    segments = -(-shape[1] // (stream.segment_frames or shape[1]))
    scales = np.full((1, segments), 0.1, np.float32) if stream.segment_frames else None
    records.append(container.encode_chunk(header, index, codes, scales))
  return container.write(header, records)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--seconds", type=float, default=SECONDS)
  parser.add_argument("--only", help="part of a codec's name")
  options = parser.parse_args()
  print(
    "| Codec | before, frames | after | seconds before | difference | to the bit | took | peak |"
  )
  for name, codec in codecs(options.data):
    if options.only and options.only not in name:
      continue
    data = file_of(codec, options.seconds)
    start = time.monotonic()
    whole = jaxcodec.decompress(data, codec)
    worst, equal, count = 0.0, 0, 0
    for at, duration in PARTS:
      part = jaxcodec.decompress(data, codec, start=at, duration=duration)
      first = round(at * codec.sample_rate)
      same = whole[:, first : first + part.shape[1]]
      worst = max(worst, float(np.abs(part - same).max()))
      equal, count = equal + int((part == same).sum()), count + part.size
    before, after = codec.module.decoder_reach
    rate = codec.sample_rate / codec.hop_length
    seconds = "all" if before is None else f"{before / rate:.2f}"
    if codec.module.segment_frames:
      seconds = "its segments"
    share, took = 100 * equal / count, time.monotonic() - start
    row = (name, before or "all", after, seconds, f"{worst:.1e}", f"{share:.0f} %", f"{took:.0f} s")
    print(f"| {' | '.join(map(str, row))} | {np.abs(whole).max():.2f} |", flush=True)


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
