"""Parts of a file equal the whole, and need no more of it than they must."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import draw_params

import jaxcodec
from jaxcodec import bitstream, chunked
from jaxcodec.audio.dac import Dac
from jaxcodec.audio.encodec import Encodec
from jaxcodec.audio.lyra import Lyra, LyraConfig
from jaxcodec.audio.mimi import Mimi, MimiConfig
from jaxcodec.codec import fingerprint
from jaxcodec.entropy import container
from jaxcodec.layers.dac import DacConfig
from jaxcodec.layers.reach import Reach
from jaxcodec.layers.seanet import SEANetConfig

NET = SEANetConfig(
  num_filters=2, strides=(2, 5), dimension=4, num_lstm_layers=0, pad_mode="zero", dilation_base=3
)
RATES = {"sample_rate": 100, "num_codebooks": 2, "codebook_size": 16, "bitrates": (80,)}


def changed(module, **changes):
  return dataclasses.replace(module, net=dataclasses.replace(module.net, **changes))


CAUSAL = Encodec(net=NET, **RATES)
MODULES = {
  "causal": CAUSAL,
  "deep": changed(CAUSAL, num_residual_layers=3, kernel_size=5, last_kernel_size=9),
  "reflect": changed(CAUSAL, pad_mode="reflect"),
  "centred": changed(CAUSAL, causal=False),
  "recurrent": changed(CAUSAL, num_lstm_layers=1),
  "recurrent-centred": changed(CAUSAL, num_lstm_layers=1, causal=False, pad_mode="reflect"),
  "mimi": Mimi(
    config=MimiConfig(net=NET, num_layers=2, num_heads=2, hidden=8, window=5),
    codebook_features=4,
    **RATES,
  ),
  "lyra": Lyra(
    net=LyraConfig(
      widths=(4, 8),
      kernel_sizes=(10, 4),
      strides=(5, 2),
      groups=(1, 2),
      unit_groups=(2,),
      dilations=(1, 3),
      features=8,
      last_groups=2,
    ),
    **RATES,
  ),
  "dac": Dac(
    net=DacConfig(encoder_width=4, decoder_width=16, strides=(2, 5), dimension=8),
    codebook_features=4,
    **RATES,
  ),
  "segmented": dataclasses.replace(
    changed(CAUSAL, causal=False, norm="time_group"), segment_length=120, segment_stride=100
  ),
}
FINITE = [name for name in MODULES if "recurrent" not in name and name != "segmented"]


def codec_of(name):
  module = MODULES[name]
  params = draw_params(module, np.zeros((1, 200, 1), np.float32))
  if name == "dac":
    # Snakes make a small difference large; as drawn, most samples would be -1 or 1.
    params = jax.tree.map(lambda leaf: leaf / 2, params)
  return jaxcodec.Codec(module=module, params=params, prior=jnp.ones((2, 16), jnp.int32), name=name)


def slow_but(*names):
  """Every codec, those that are not named in the slow group: each compiles for seconds."""
  return [pytest.param(n, marks=[pytest.mark.slow] * (n not in names)) for n in MODULES]


@pytest.mark.parametrize("name", [p for p in slow_but("deep", "dac") if p.values[0] in FINITE])
def test_a_code_reaches_as_far_as_the_layers_say_and_no_further(name):
  codec, frames = codec_of(name), 60
  before, after = codec.module.decoder_reach
  codes = np.random.default_rng(0).integers(16, size=(1, frames, 2))
  other = codes.copy()
  other[0, 30] = (codes[0, 30] + 5) % 16
  # Not two rows of a batch: they may round differently.
  decode = jax.jit(jaxcodec.decode)
  differs = (decode(codec, codes) != decode(codec, other)).reshape(frames, -1).any(axis=1)
  found = np.flatnonzero(differs)
  assert found.min() >= 30 - after
  assert found.max() <= 30 + before
  # Nor is much more decoded than must be: bounds of layers add up to a frame too many at most.
  assert found.min() <= 30 - after + 1
  assert found.max() >= 30 + before - 1


def file_of(codec, length):
  """Two rows of random codes, in chunks of ten seconds."""
  rng, frames = np.random.default_rng(1), chunked.chunk_frames(codec, bitstream.CHUNK_SECONDS)
  stream = container.Stream(
    codec="x",
    weights_hash=fingerprint(codec),
    sample_rate=100,
    channels=1,
    batch=2,
    num_samples=length,
    hop_length=codec.hop_length,
    num_frames=chunked.stored_frames(codec, length),
    frames_per_chunk=frames,
    segment_frames=codec.module.segment_frames,
    codebook_sizes=(16, 16),
  )
  header, records = container.Header(streams=(stream,)), []
  for index, shape in enumerate(container.chunk_shapes(stream)):
    segments = -(-shape[1] // (stream.segment_frames or shape[1]))
    scales = rng.random((2, segments), np.float32) if stream.segment_frames else None
    records.append(container.encode_chunk(header, index, rng.integers(16, size=shape), scales))
  return container.write(header, records)


PARTS = ((23.4, 4.21), (45.66, None), (0, 3), (0, None), (9.99, 0.02), (40, 99))


@pytest.mark.parametrize("name", slow_but("causal"))
def test_parts_equal_the_whole_and_need_no_other_chunk(name):
  codec, length = codec_of(name), 4567
  data = file_of(codec, length)
  whole = jaxcodec.decompress(data, codec)
  stream = container.read_header(data).streams[0]
  starts = container.read_layout(data).starts[0]
  # Each shape compiles anew, which takes seconds for some codecs.
  for start, duration in PARTS if name == "causal" else PARTS[:2]:
    first, stop = bitstream.sample_range(stream, start, duration)
    needed = chunked.span(codec, length, first, stop)
    damaged = bytearray(data)
    for index in range(stream.num_chunks):
      at = index * stream.frames_per_chunk
      if at >= needed.last or at + stream.frames_per_chunk <= needed.first:
        damaged[starts[index] + 1] ^= 1
    part = jaxcodec.decompress(bytes(damaged), codec, start=start, duration=duration)
    assert part.shape == (2, stop - first, 1)
    np.testing.assert_allclose(part, whole[:, first:stop], atol=2e-6)
    if codec.module.decoder_reach.before is None:
      assert needed.first == 0
    elif start == 45.66:
      assert needed.first > 0.75 * stream.num_frames
    if start == 23.4:
      assert needed.last < 0.7 * stream.num_frames


@pytest.mark.parametrize("name", ["dac", pytest.param("centred", marks=pytest.mark.slow)])
def test_chunks_of_a_codec_that_looks_ahead_give_the_whole_to_its_last_sample(name):
  codec, length = codec_of(name), 2345
  data = file_of(codec, length)
  codes = np.concatenate([codes for codes, _ in container.read_chunks(data)], axis=1)
  whole = np.asarray(jax.jit(jaxcodec.decode)(codec, codes))[:, :length]
  np.testing.assert_allclose(jaxcodec.decompress(data, codec), whole, atol=2e-6)


def test_every_part_of_segments_has_all_that_covers_it():
  codec = codec_of("segmented")
  module = codec.module
  size, stride = module.segment_frames * module.hop_length, module.segment_stride
  for length in (1, 99, 100, 101, 119, 120, 121, 200, 215, 221, 333):
    stored = chunked.stored_frames(codec, length)
    for first in range(0, length, 7):
      for stop in {first + 1, min(length, first + 40), length}:
        span = chunked.span(codec, length, first, stop)
        assert span.start == span.first // module.segment_frames * stride
        covering = [
          s for s in range(-(-length // stride)) if s * stride < stop and s * stride + size > first
        ]
        assert span.first == covering[0] * module.segment_frames
        assert span.last >= min(stored, (covering[-1] + 1) * module.segment_frames)
        assert span.start + span.num_samples >= stop


def test_a_part_starts_and_ends_on_the_nearest_sample_within_the_signal():
  stream = container.Stream(
    codec="x",
    weights_hash=bytes(16),
    sample_rate=100,
    channels=1,
    batch=1,
    num_samples=1000,
    hop_length=10,
    num_frames=100,
    frames_per_chunk=10,
    codebook_sizes=(2,),
  )
  for start, duration, expected in (
    (0, None, (0, 1000)),
    (0.004, 0, (0, 0)),
    (9.996, 5, (1000, 1000)),
    (10, None, (1000, 1000)),
    (2.5, 0.126, (250, 263)),
    (1, 1e300, (100, 1000)),
  ):
    assert bitstream.sample_range(stream, start, duration) == expected
  for start, duration, message in (
    (10.01, None, "start 10.01 s lies after the end, 10 s"),
    (-1, None, "start must be 0 seconds or more"),
    (float("nan"), None, "start must be 0"),
    (float("inf"), None, "start must be 0"),
    (0, -1, "duration must be 0"),
    (0, float("inf"), "duration must be 0"),
  ):
    with pytest.raises(ValueError, match=message):
      bitstream.sample_range(stream, start, duration)


def test_a_file_that_says_it_needs_too_much_is_refused_before_it_is_decoded():
  codec = codec_of("causal")
  data = jaxcodec.compress(codec, np.zeros((3, 40, 1), np.float32))
  stream = container.read_header(data).streams[0]
  needed = bitstream.memory_needed(stream, codec, 40)
  assert jaxcodec.decompress(data, codec, max_memory=needed).shape == (3, 40, 1)
  with pytest.raises(jaxcodec.CodecError, match=r"needs 0 MB of memory, and 0 are allowed"):
    jaxcodec.decompress(data, codec, max_memory=needed - 1)
  # Silence costs next to nothing: a few bytes may rightly be 64 rows of an hour of it.
  huge = dataclasses.replace(
    stream, batch=64, num_frames=2**15, frames_per_chunk=2**15, num_samples=10 * 2**15
  )
  header = container.Header(streams=(huge,))
  record = container.encode_chunk(header, 0, np.zeros((64, 2**15, 2), np.int8))
  file = container.write(header, [record])
  assert len(file) < 1500
  with pytest.raises(jaxcodec.CodecError, match="needs 187 MB of memory, and 100 are allowed"):
    jaxcodec.decompress(file, codec, max_memory=10**8)


def test_streams_are_told_apart_by_number():
  codec = codec_of("causal")
  waves = [np.full((1, n, 1), 0.1, np.float32) for n in (40, 30)]
  files = [jaxcodec.compress(codec, x, metadata={"title": str(x.shape[1])}) for x in waves]
  both = container.join(files)
  for number, x in enumerate(waves):
    alone = jaxcodec.decompress(files[number], codec)
    np.testing.assert_array_equal(jaxcodec.decompress(both, codec, stream=number), alone)
    assert alone.shape == x.shape
  with pytest.raises(jaxcodec.CodecError, match="holds 2 streams: say which"):
    jaxcodec.decompress(both, codec)
  with pytest.raises(jaxcodec.CodecError, match="no stream 2 in a file of 2"):
    jaxcodec.decompress(both, codec, stream=2)


def test_reach_follows_each_kind_of_layer():
  # 6 samples; (6 + 3) // 2 = 4 before the stride of 2; (4 + 9) // 5 = 2 before that of 5; 6 more.
  assert changed(CAUSAL, num_residual_layers=0).decoder_reach == Reach(8, 0)
  assert MODULES["recurrent"].decoder_reach.before is None
  assert MODULES["recurrent-centred"].decoder_reach.after == MODULES["centred"].decoder_reach.after
