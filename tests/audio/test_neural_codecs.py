"""Codecs of which a half sees all of a signal at once: batches, chunks, files and the command."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings, strategies as st
from random_params import draw_params

import jaxcodec
from jaxcodec import chunked, cli, functional as F
from jaxcodec.audio.dm_codec import DmCodec
from jaxcodec.audio.hifi_codec import HiFiCodec, HiFiConfig
from jaxcodec.audio.language_codec import LanguageCodec
from jaxcodec.audio.wavtokenizer import WavTokenizer
from jaxcodec.data.sound import Sound
from jaxcodec.decoders.vocos import VocosConfig
from jaxcodec.entropy import container
from jaxcodec.layers.seanet import SEANetConfig
from jaxcodec.training import codebooks
from jaxcodec.training.config import Adam, LearningRate, Losses, Train

HOP, FRAMES = 6, 24
LENGTH = FRAMES * HOP - 2
# Few, as a row alone compiles anew for each.
LENGTHS = (1, 31, LENGTH)
# Frames of a first chunk: enough to reflect at the start in every layer, and too few.
FIRST, SHORT = 6, 3
NET = SEANetConfig(
  num_filters=2, strides=(6,), dimension=8, num_lstm_layers=1, causal=False, pad_mode="reflect"
)
VOCOS = VocosConfig(width=8, hidden=12, num_layers=1, window_length=24)
MODULES = {
  "dm-codec": DmCodec(
    net=NET,
    teacher_features=5,
    sample_rate=6000,
    num_codebooks=4,
    codebook_size=16,
    bitrates=(12_000, 16_000),
  ),
  "hifi-codec": HiFiCodec(
    net=HiFiConfig(
      encoder_width=4,
      decoder_width=8,
      strides=(6,),
      kernel_sizes=(8,),
      block_kernels=(3, 5),
      dilations=(2,),
      group_width=2,
      dimension=8,
    ),
    sample_rate=6000,
    num_codebooks=4,
    codebook_size=16,
    bitrates=(16_000,),
  ),
  "wavtokenizer": WavTokenizer(
    net=NET,
    vocos=VOCOS,
    num_groups=2,
    sample_rate=6000,
    num_codebooks=1,
    codebook_size=32,
    bitrates=(5000,),
  ),
  "language-codec": LanguageCodec(
    net=NET,
    vocos=VOCOS,
    sample_rate=6000,
    num_codebooks=4,
    codebook_size=16,
    bitrates=(12_000, 16_000),
  ),
}
EVERY = pytest.mark.parametrize("name", MODULES)
# DM-Codec's files are coded as HiFi-Codec's are: the encoder takes the whole, the decoder chunks.
FILES = pytest.mark.parametrize(
  "name",
  [pytest.param(n, marks=pytest.mark.slow) if n == "dm-codec" else n for n in MODULES],
)

encode, decode = jax.jit(jaxcodec.encode), jax.jit(jaxcodec.decode)
encode_rows = jax.jit(lambda codec, x, length: jaxcodec.encode(codec, x, length=length))
decode_rows = jax.jit(lambda codec, codes, length: jaxcodec.decode(codec, codes, length=length))
encode_chunk = jax.jit(jaxcodec.encode_chunk, static_argnames="final")
decode_chunk = jax.jit(jaxcodec.decode_chunk, static_argnames="final")


def signal(batch, length, seed=0):
  x = np.random.default_rng(seed).normal(size=(batch, length, 1))
  return np.clip(0.3 * x, -1, 1).astype(np.float32)


@functools.cache
def codec_of(name):
  """Random weights, and codebooks as wide as the latents."""
  module = MODULES[name]
  x = signal(2, LENGTH + 2, seed=1)
  params = draw_params(module, x)
  z = jax.jit(lambda p, x: module.apply({"params": p}, x, method="latents"))(params, x)
  params["quantizer"]["codebooks"] *= z.std()
  sizes = module.codebook_sizes
  prior = jnp.ones((len(sizes), max(sizes)), jnp.int32)
  return jaxcodec.Codec(module=module, params=params, prior=prior, name=name)


@functools.cache
def whole(name):
  """A signal of two rows that ends within a frame, its codes, and what they decode to."""
  x = signal(2, LENGTH)
  codes = encode(codec_of(name), x)
  return x, np.asarray(codes), np.asarray(decode(codec_of(name), codes))


@functools.cache
def alone(name, row, length):
  """Codes and wave of the first `length` samples of a row of `whole`, nothing after them."""
  codec, (x, codes, wave) = codec_of(name), whole(name)
  if length == LENGTH:
    return codes[row], wave[row, :LENGTH]
  codes = encode(codec, x[row : row + 1, :length])
  return np.asarray(codes)[0], np.asarray(decode(codec, codes))[0, :length]


@pytest.mark.slow
@EVERY
@given(lengths=st.tuples(*[st.sampled_from(LENGTHS)] * 2), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_rows_of_their_own_lengths_are_coded_as_if_alone(name, lengths, seed):
  codec, ends = codec_of(name), np.array(lengths)
  there = np.arange(LENGTH)[:, None] < ends[:, None, None]
  # What stands after a row's end is of no meaning.
  x = np.where(there, whole(name)[0], signal(2, LENGTH, seed))
  codes = np.asarray(encode_rows(codec, x, ends))
  waves = np.asarray(decode_rows(codec, codes, ends))
  for row, length in enumerate(lengths):
    want, wave = alone(name, row, length)
    np.testing.assert_array_equal(codes[row, : len(want)], want)
    assert (codes[row, len(want) :] == -1).all()
    np.testing.assert_allclose(waves[row, :length], wave, atol=1e-5)
    assert not waves[row, length:].any()


@pytest.mark.slow
@EVERY
def test_operations_one_by_one_give_the_codes_and_the_wave_of_a_compiled_program(name):
  codec, (x, want, wave) = codec_of(name), whole(name)
  assert min(len(np.unique(want[..., q])) for q in range(want.shape[-1])) > 3
  assert wave.std() > 0.01
  codes = jaxcodec.encode(codec, x)
  np.testing.assert_array_equal(codes, want)
  np.testing.assert_allclose(jaxcodec.decode(codec, codes), wave, atol=1e-5)


def halves(name):
  """Of each half: what takes a chunk, of what, in steps of what, to what."""
  x, codes, wave = whole(name)
  return {
    "encoder": (encode_chunk, x, HOP, codes),
    "decoder": (decode_chunk, codes, 1, wave),
  }


# Of few sizes, as each shape compiles anew.
@pytest.mark.slow
@EVERY
@given(sizes=st.permutations((1, 1, 4, 4, 6, 8)))
@settings(max_examples=6, deadline=None)
def test_the_half_that_streams_does_so_in_chunks_of_any_sizes(name, sizes):
  codec = codec_of(name)
  for half, (function, array, step, want) in halves(name).items():
    if not getattr(codec.module, f"{half}_streams"):
      continue
    if half == "encoder" or name == "dm-codec":
      sizes = sorted(sizes, key=lambda size: size < FIRST)
    stops = np.cumsum(sizes)
    assert stops[-1] == FRAMES
    state, parts = jaxcodec.init_stream(codec, 2), []
    for start, stop in zip((0, *stops), stops, strict=False):
      chunk = array[:, start * step : stop * step]
      state, part = function(codec, state, chunk, final=bool(stop == FRAMES))
      parts.append(part)
    got = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(got, want, atol=0 if half == "encoder" else 1e-5)


@EVERY
def test_what_does_not_go_in_chunks_is_refused_in_a_line(name):
  codec = codec_of(name)
  refused = {}
  for half, (_, array, step, _) in halves(name).items():
    function = jaxcodec.encode_chunk if half == "encoder" else jaxcodec.decode_chunk
    try:
      jax.eval_shape(function, codec, jaxcodec.init_stream(codec, 2), array[:, : SHORT * step])
    except ValueError as error:
      refused[half] = str(error)
  whole = f"codec {name} sees all of a signal at once: it takes it whole"
  short = (
    "the first chunk is too short: {} steps, a layer needs 4"  # To reflect three at its start.
  )
  assert (
    refused
    == {
      "dm-codec": {"encoder": whole, "decoder": short.format(SHORT)},
      "hifi-codec": {"encoder": whole},
      "wavtokenizer": {"encoder": short.format(1), "decoder": whole},
      "language-codec": {"encoder": short.format(1)},
    }[name]
  )


@FILES
def test_files_hold_the_codes_of_the_whole_and_open_at_any_second(name):
  codec, (x, codes, wave) = codec_of(name), whole(name)
  blocks = [x[:, :50], x[:, 50:]]
  stored = [part for part, _ in chunked.encode_blocks(codec, blocks, 10)]
  assert [part.shape[1] for part in stored] == [10, 10, 4]
  np.testing.assert_array_equal(np.concatenate(stored, axis=1), codes)
  data = jaxcodec.compress(codec, x)
  y = jaxcodec.decompress(data, codec)
  assert y.shape == x.shape
  np.testing.assert_allclose(y, wave[:, :LENGTH], atol=1e-5)
  part = jaxcodec.decompress(data, codec, start=40 / 6000, duration=30 / 6000)
  np.testing.assert_allclose(part, wave[:, 40:70], atol=1e-5)


@FILES
@given(cuts=st.lists(st.integers(0, LENGTH), max_size=3), frames=st.lists(st.integers(0, FRAMES)))
@settings(max_examples=20, deadline=None)
def test_how_signals_and_codes_are_handed_over_changes_nothing(name, cuts, frames):
  codec, (x, codes, wave) = codec_of(name), whole(name)
  blocks = np.split(x, sorted(cuts), axis=1)
  stored = [part for part, _ in chunked.encode_blocks(codec, blocks, 10)]
  np.testing.assert_array_equal(np.concatenate(stored, axis=1), codes)
  chunks = [(part, None) for part in np.split(codes, sorted(frames), axis=1)]
  y = np.concatenate(list(chunked.decode_blocks(codec, chunks, 10, LENGTH)), axis=1)
  np.testing.assert_allclose(y, wave[:, :LENGTH], atol=1e-5)


@pytest.mark.slow
@EVERY
def test_the_command_codes_a_file(name, tmp_path):
  x, _, wave = whole(name)
  jaxcodec.save(codec_of(name), tmp_path / "codec")
  soundfile.write(tmp_path / "x.wav", x[0], 6000, subtype="FLOAT")
  with_codec = ["--codec", str(tmp_path / "codec")]
  files = [str(tmp_path / file) for file in ("x.wav", "x.jxc", "y.wav")]
  assert cli.main(["encode", *files[:2], *with_codec]) == 0
  assert cli.main(["decode", *files[1:], *with_codec]) == 0
  y, rate = soundfile.read(files[2], dtype="float32")
  assert rate == 6000
  # Sixteen bits a sample, full scale at most.
  np.testing.assert_allclose(y, wave[0, :LENGTH, 0].clip(-1, 1), atol=1e-4)


@pytest.mark.parametrize(("name", "fewest"), [("hifi-codec", 2), ("language-codec", 3)])
def test_codes_without_a_band_of_channels_are_refused(name, fewest):
  codec, codes = codec_of(name), whole(name)[1]
  assert jax.eval_shape(jaxcodec.decode, codec, codes[..., :fewest]).shape[1] == FRAMES * HOP
  few = codes[..., : fewest - 1]
  with pytest.raises(ValueError, match=f"{fewest} to 4\\], got shape"):
    jaxcodec.decode(codec, few)
  stream = container.read_header(jaxcodec.compress(codec, whole(name)[0])).streams[0]
  sizes = stream.codebook_sizes[: fewest - 1]
  header = container.Header(streams=(dataclasses.replace(stream, codebook_sizes=sizes),))
  file = container.write(header, [container.encode_chunk(header, 0, few)])
  with pytest.raises(jaxcodec.CodecError, match="the file's codebook sizes"):
    jaxcodec.decompress(file, codec)


def test_a_group_of_codes_is_one_stage_of_all_groups():
  codec, (x, want, _) = codec_of("hifi-codec"), whole("hifi-codec")
  first = jax.jit(
    lambda codec, x: codec.module.apply({"params": codec.params}, x, 2, method="encode")
  )
  np.testing.assert_array_equal(first(codec, x), want[..., :2])


def test_moving_averages_write_the_codebooks_of_groups_and_of_bands():
  """At a decay of 0 an entry becomes the mean of the vectors that chose it."""
  z = np.random.default_rng(5).normal(size=(400, 8)).astype(np.float32)
  for name, groups in (("hifi-codec", 2), ("language-codec", 1)):
    config = Train(
      name=name,
      codec=MODULES[name],
      data=Sound(segment_seconds=1.0),
      batch_size=1,
      num_steps=1,
      optimizer=Adam(rate=LearningRate(peak=1.0)),
      losses=Losses(l1=1.0),
    )
    params = codec_of(name).params

    @jax.jit
    def update(params, z, config=config):
      found = config.codec.apply({"params": params}, z, method=lambda codec, z: codec.quantizer(z))
      state = F.ema_state(codebooks.read(config, params))
      statistics = F.CodeStatistics(*codebooks.statistics(found.statistics))
      written, _ = F.ema_update(state, statistics, 0.0)
      started, _ = codebooks.kmeans(config, params, jax.random.key(0), z)
      new = codebooks.write(config, params, written)["quantizer"]["codebooks"]
      return found.codes, new, started

    codes, new, started = map(np.asarray, update(params, z))
    width = 8 // groups
    new = new.reshape(groups, -1, 16, width)
    for group in range(groups):
      part = z[:, group * width : (group + 1) * width].copy()
      if name == "language-codec":
        part[:, 8 // 3 :] = 0
      chosen = codes[:, group]
      for entry in np.unique(chosen):
        mean = part[chosen == entry].mean(axis=0)
        np.testing.assert_allclose(new[group, 0, entry], mean, atol=1e-3)
  # k-means, too, leaves zeros outside the bands of 2, 3 and 3 channels.
  for stage, band in enumerate((slice(0, 2), slice(2, 5), slice(5, 8))):
    outside = np.delete(started[stage], band, axis=1)
    assert not outside.any()
    assert started[stage][:, band].std() > 0.3
  assert started[3].std() > 0.05
