"""SemantiCodec: windows that are coded alone, silence, and what a key changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings, strategies as st
from random_params import draw_params

import jaxcodec
from configs import semanticodec_16khz
from jaxcodec import chunked, cli
from jaxcodec.encoders import mae

# Windows of 16 frames of 320 samples; in decoding they overlap by a frame.
MODULE = semanticodec_16khz.tiny().codec
HOP, SIZE = MODULE.hop_length, MODULE.window_frames
LENGTH = 2 * SIZE * HOP + 3 * HOP - 100
# Within a frame; two windows, the second of no more than its first two frames; three.
LENGTHS = (100, SIZE * HOP + 77, LENGTH)

encode = jax.jit(jaxcodec.encode)
decode = jax.jit(jaxcodec.decode)
encode_rows = jax.jit(lambda codec, x, length: jaxcodec.encode(codec, x, length=length))
decode_rows = jax.jit(lambda codec, codes, length: jaxcodec.decode(codec, codes, length=length))


def signal():
  rng = np.random.default_rng(0)
  return np.clip(0.2 * rng.normal(size=(2, LENGTH, 1)), -1, 1).astype(np.float32)


@functools.cache
def tiny():
  """Random weights, and centroids and entries where features are."""
  params = draw_params(MODULE, np.zeros((1, *MODULE.smallest), np.float32))
  params["encoder"]["positions"] = mae.positions(MODULE.mae.grid, MODULE.mae.width)

  @jax.jit
  def rows(params, x):
    codec = MODULE.bind({"params": params})
    features, end = codec.features(x)
    quantizer = params["quantizer"] | {"centroids": features.reshape(-1, features.shape[-1])[::2]}
    codec = MODULE.bind({"params": params | {"quantizer": quantizer}})
    return quantizer["centroids"], codec.quantizer.residual(features, end)[1]

  centroids, rest = rows(params, signal()[:1, : SIZE * HOP])
  quantizer = params["quantizer"] | {"centroids": centroids}
  quantizer["acoustic"] = {"codebooks": rest[:, ::2]}
  params = params | {"quantizer": quantizer}
  prior = jnp.ones((2, 8), jnp.int32)
  return jaxcodec.Codec(module=MODULE, params=params, prior=prior, name="tiny")


@functools.cache
def whole():
  x = signal()
  return x, np.asarray(encode(tiny(), x))


@functools.cache
def decoded():
  return np.asarray(decode(tiny(), whole()[1]))


def test_there_are_as_many_pairs_as_the_sound_is_long_and_none_for_silence_after_it():
  assert (SIZE, MODULE.window_stride, HOP) == (16, 15, 320)
  # The program of the source gives a whole window or patch of sound one more of silence.
  assert [MODULE.num_frames(n) for n in (1, HOP, HOP + 1, SIZE * HOP)] == [1, 1, 2, SIZE]
  assert whole()[1].shape == (2, 35, 2)
  assert MODULE.num_active(675) == 2
  assert MODULE.codebook_sizes == (8, 8)


def test_rows_of_their_own_lengths_and_windows_are_coded_as_if_alone():
  codec, (x, want) = tiny(), whole()
  assert min(len(np.unique(want[..., q])) for q in range(2)) > 3
  short = SIZE * HOP + 77
  codes = np.asarray(encode_rows(codec, x, np.array([short, LENGTH])))
  np.testing.assert_array_equal(codes[1], want[1])
  # Alone: nothing follows, and one window is as the first of several.
  alone = np.asarray(encode(codec, np.where(np.arange(LENGTH)[:, None] < short, x, 0)))[0]
  np.testing.assert_array_equal(codes[0, : SIZE + 1], alone[: SIZE + 1])
  assert (codes[0, SIZE + 1 :] == -1).all()
  stored = [c for c, _ in chunked.encode_blocks(codec, [x[:, :9000], x[:, 9000:]], SIZE)]
  assert [part.shape[1] for part in stored] == [16, 16, 3]
  np.testing.assert_array_equal(np.concatenate(stored, axis=1), want)


@functools.cache
def alone(row, length):
  """Codes and wave of the first `length` samples of a row of `whole`, nothing after them."""
  x, codes = whole()
  if length == LENGTH:
    return codes[row], decoded()[row, :length]
  codes = encode(tiny(), x[row : row + 1, :length])
  return np.asarray(codes)[0], np.asarray(decode(tiny(), codes))[0, :length]


@pytest.mark.slow
@given(lengths=st.tuples(*[st.sampled_from(LENGTHS)] * 2), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_rows_of_any_lengths_are_coded_and_decoded_as_if_alone(lengths, seed):
  ends = np.array(lengths)
  there = np.arange(LENGTH)[:, None] < ends[:, None, None]
  noise = np.random.default_rng(seed).normal(size=(2, LENGTH, 1)).astype(np.float32)
  # What stands after a row's end is of no meaning.
  codes = np.asarray(encode_rows(tiny(), np.where(there, whole()[0], noise), ends))
  waves = np.asarray(decode_rows(tiny(), codes, ends))
  for row, length in enumerate(lengths):
    want, wave = alone(row, length)
    np.testing.assert_array_equal(codes[row, : len(want)], want)
    assert (codes[row, len(want) :] == -1).all()
    np.testing.assert_allclose(waves[row, :length], wave, atol=1e-5)
    assert not waves[row, length:].any()


@pytest.mark.slow
@given(
  cuts=st.lists(st.integers(0, LENGTH), max_size=3),
  frames=st.lists(st.integers(0, 2 * SIZE + 3), max_size=3),
)
@settings(max_examples=20, deadline=None)
def test_how_signals_and_codes_are_handed_over_changes_nothing(cuts, frames):
  codec, (x, codes), wave = tiny(), whole(), decoded()
  blocks = np.split(x, sorted(cuts), axis=1)
  stored = [part for part, _ in chunked.encode_blocks(codec, blocks, SIZE)]
  np.testing.assert_array_equal(np.concatenate(stored, axis=1), codes)
  chunks = [(part, None) for part in np.split(codes, sorted(frames), axis=1)]
  y = np.concatenate(list(chunked.decode_blocks(codec, chunks, SIZE, LENGTH)), axis=1)
  np.testing.assert_allclose(y, wave[:, :LENGTH], atol=1e-5)


@pytest.mark.slow
def test_operations_one_by_one_give_the_codes_and_the_wave_of_a_compiled_program():
  codes = jaxcodec.encode(tiny(), whole()[0])
  np.testing.assert_array_equal(codes, whole()[1])
  np.testing.assert_allclose(jaxcodec.decode(tiny(), codes), decoded(), atol=1e-5)


def test_silence_at_the_end_is_marked_and_all_silence_as_well():
  mel = np.zeros((3, MODULE.mae.frames, MODULE.mae.bands), np.float32)
  mel[0, :9, 3] = 1
  mel[1, :, 2] = 1
  end = MODULE.end(mel)
  # Nine of 32 rows are 4.5 of 16 frames.
  np.testing.assert_array_equal(end, [5, 16, 0])


def test_chunks_are_refused_and_so_are_half_pairs_and_a_stack_that_the_source_has_not():
  codec, (x, codes) = tiny(), whole()
  for call in (
    lambda: jaxcodec.init_stream(codec),
    lambda: jaxcodec.encode_chunk(codec, None, x, final=True),
    lambda: jaxcodec.decode_chunk(codec, None, codes, final=True),
  ):
    with pytest.raises(ValueError, match="sees all of a signal at once"):
      call()
  with pytest.raises(ValueError, match=r"2 to 2\], got shape"):
    jaxcodec.decode(codec, codes[..., :1])
  with pytest.raises(ValueError, match="stack=3"):
    jax.eval_shape(MODULE.clone(stack=3).init, jax.random.key(0), jnp.zeros((1, HOP, 1)))


@pytest.mark.slow
def test_files_decode_as_the_whole_and_open_at_any_second(tmp_path):
  codec, (x, codes), wave = tiny(), whole(), decoded()
  assert wave.shape == (2, 35 * HOP, 1)
  assert wave.std() > 0.01
  data = jaxcodec.compress(codec, x)
  y = jaxcodec.decompress(data, codec)
  np.testing.assert_allclose(y, wave[:, :LENGTH], atol=1e-5)
  # From within an overlap, from a window's middle, and across one.
  for start, count in ((15 * HOP + 40, 100), (20 * HOP, 2 * HOP), (29 * HOP, 4 * HOP)):
    part = jaxcodec.decompress(data, codec, start=start / 16_000, duration=count / 16_000)
    np.testing.assert_allclose(part, wave[:, start : start + count], atol=1e-5)
  # Under a key of the caller's, other noise; under the seed's own, the same.
  keyed = jax.jit(lambda p, c, key: MODULE.apply({"params": p}, c, None, key, method="decode"))
  ours, other = (np.asarray(keyed(codec.params, codes, jax.random.key(s))) for s in (0, 1))
  np.testing.assert_allclose(ours, wave, atol=1e-6)
  assert np.abs(other - wave).max() > 1e-3
  # The command, from a directory of our own.
  jaxcodec.save(codec, tmp_path / "codec")
  jax.tree.map(np.testing.assert_array_equal, jaxcodec.load(tmp_path / "codec"), codec)
  soundfile.write(tmp_path / "x.wav", x[0], 16_000, subtype="FLOAT")
  files = [str(tmp_path / name) for name in ("x.wav", "x.jxc", "y.wav")]
  with_codec = ["--codec", str(tmp_path / "codec")]
  assert cli.main(["encode", *files[:2], *with_codec]) == 0
  assert cli.main(["decode", *files[1:], *with_codec]) == 0
  sound, rate = soundfile.read(files[2], dtype="float32")
  assert rate == 16_000
  np.testing.assert_allclose(sound, wave[0, :LENGTH, 0], atol=1e-4)
