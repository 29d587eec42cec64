"""DAC's own contracts; those that every codec keeps are in tests/test_codec.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import jaxcodec
from jaxcodec.audio.dac import Dac, bitrates
from jaxcodec.layers.dac import DacConfig

HOP = 6
# An odd stride, after which the decoder still upsamples by two: it lacks two samples.
MODULE = Dac(
  net=DacConfig(encoder_width=4, decoder_width=16, strides=(2, 3), dimension=8),
  sample_rate=6000,
  num_codebooks=3,
  codebook_size=16,
  codebook_features=4,
  bitrates=bitrates(6000, HOP, 3, 16),
)

encode, decode = jax.jit(jaxcodec.encode), jax.jit(jaxcodec.decode)
encode_chunk = jax.jit(jaxcodec.encode_chunk, static_argnames="final")
decode_chunk = jax.jit(jaxcodec.decode_chunk, static_argnames="final")


def signal(batch, length, seed=0):
  x = np.random.default_rng(seed).normal(size=(batch, length, 1))
  return np.clip(0.3 * x, -1, 1).astype(np.float32)


@functools.cache
def codec():
  """Random weights, with biases, whose quantizer adds about what its residuals hold."""
  shapes = jax.eval_shape(MODULE.init, jax.random.key(0), signal(1, HOP))["params"]
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    spread = 1 / max(1, np.prod(leaf.shape[:-1])) ** 0.5 if leaf.ndim > 1 else 0.1
    centre = 1 if path[-1].key == "alpha" else 0
    return (centre + spread * rng.normal(size=leaf.shape)).astype(np.float32)

  params = jax.tree_util.tree_map_with_path(draw, shapes)
  quantizer = params["quantizer"]
  for name in ("in_kernel", "codebooks", "out_kernel"):  # Of three stages each.
    quantizer[name] *= 3**0.5
  params["decoder"]["conv_out"]["kernel"] *= 0.3
  prior = jnp.ones((3, 16), jnp.int32)
  return jaxcodec.Codec(module=MODULE, params=params, prior=prior, name="tiny")


FRAMES = 70


@functools.cache
def whole():
  """A signal that ends within a frame, its codes and what they decode to."""
  x = signal(2, FRAMES * HOP - 4)
  codes = encode(codec(), x)
  return x, np.asarray(codes), np.asarray(decode(codec(), codes))


def test_codes_and_wave_of_the_test_codec_are_not_trivial():
  _, codes, wave = whole()
  assert min(len(np.unique(codes[..., q])) for q in range(3)) > 7
  assert wave.std() > 0.05
  assert np.abs(wave).max() < 1


# Seldom other sizes, as each shape compiles anew; at 30 the first frames are out, at 5 none are.
@pytest.mark.slow
@given(sizes=st.lists(st.sampled_from([5, 30, 35]), min_size=1, max_size=3))
@settings(max_examples=5, deadline=None)
def test_chunks_give_the_codes_and_the_wave_of_the_whole(sizes):
  x, codes, wave = whole()
  stops = [stop for stop in np.cumsum(sizes) if stop < FRAMES] + [FRAMES]
  encoder = decoder = jaxcodec.init_stream(codec(), 2)
  got, waves, start = [], [], 0
  for stop in stops:
    final = stop == FRAMES
    chunk = x[:, start * HOP : stop * HOP]
    encoder, part = encode_chunk(codec(), encoder, chunk, final=final)
    got.append(part)
    decoder, y = decode_chunk(codec(), decoder, codes[:, start:stop], final=final)
    waves.append(y)
    start = stop
  np.testing.assert_array_equal(np.concatenate(got, axis=1), codes)
  np.testing.assert_allclose(np.concatenate(waves, axis=1), wave, atol=1e-5)
  if len(stops) > 1:
    assert got[0].shape[1] < stops[0]  # It looks ahead.


def test_an_empty_chunk_may_end_a_stream():
  _, codes, wave = whole()
  state, first = decode_chunk(codec(), jaxcodec.init_stream(codec(), 2), codes)
  _, rest = decode_chunk(codec(), state, codes[:, :0], final=True)
  assert 0 < rest.shape[1] < wave.shape[1]
  np.testing.assert_allclose(np.concatenate([first, rest], axis=1), wave, atol=1e-5)


@pytest.mark.slow
def test_rows_of_their_own_lengths_are_coded_as_if_alone():
  x, lengths = signal(4, 90, seed=2), np.array([1, HOP, 40, 90])
  codes = jax.jit(lambda c, x, n: jaxcodec.encode(c, x, length=n))(codec(), x, lengths)
  waves = jax.jit(lambda c, k, n: jaxcodec.decode(c, k, length=n))(codec(), codes, lengths)
  for row, length in enumerate(lengths):
    alone = encode(codec(), x[row : row + 1, :length])
    frames = -(-length // HOP)
    np.testing.assert_array_equal(codes[row : row + 1, :frames], alone)
    assert (codes[row, frames:] == -1).all()
    wave = decode(codec(), alone)
    np.testing.assert_allclose(waves[row, :length], wave[0, :length], atol=1e-5)
    assert not waves[row, length:].any()


@pytest.mark.parametrize(
  ("strides", "missing"),
  [((2, 4, 8, 8), 0), ((2, 4, 5, 8), 8), ((2, 3), 2), ((3, 2), 1), ((3, 5), 4), ((2,), 0)],
)
def test_the_decoder_lacks_samples_after_odd_strides_and_zeros_stand_for_them(strides, missing):
  net = DacConfig(encoder_width=1, decoder_width=32, strides=strides, dimension=2)
  assert net.missing == missing
  hop = int(np.prod(strides))
  length = 4
  for stride in reversed(strides):  # As PyTorch counts: (T - 1) s + 2 s - 2 ceil(s / 2).
    length = (length - 1) * stride + 2 * stride - 2 * -(-stride // 2)
  assert length == 4 * hop - missing
  module = Dac(net=net, sample_rate=8000, num_codebooks=1, codebook_size=2, bitrates=(1,))
  shape = jax.ShapeDtypeStruct((1, 4, 2), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, hop, 1)))
  half = {"params": variables["params"]}
  inner = jax.eval_shape(
    lambda v, z: module.apply(v, z, method=lambda m, z: m.decoder(z)[0]), half, shape
  )
  assert inner.shape == (1, 4 * hop - missing, 1)
  codes = jax.ShapeDtypeStruct((1, 4, 1), jnp.int32)
  outer = jax.eval_shape(lambda v, k: module.apply(v, k, method="decode"), half, codes)
  assert outer.shape == (1, 4 * hop, 1)


def test_zeros_stand_at_the_end_only():
  _, _, wave = whole()
  assert not wave[:, -2:].any()
  assert wave[:, :-2].any(axis=1).all()
  assert wave[:, -8:-2].any()


@pytest.mark.parametrize(
  ("rate", "hop", "count", "lowest", "highest"),
  [(44_100, 512, 9, 861, 7752), (24_000, 320, 32, 750, 24_000), (16_000, 320, 12, 500, 6000)],
)
def test_each_bitrate_pays_for_one_codebook_more(rate, hop, count, lowest, highest):
  offered = bitrates(rate, hop, count, 1024)
  assert (offered[0], offered[-1]) == (lowest, highest)
  strides = (2, 4, 8, 8) if hop == 512 else (2, 4, 5, 8)
  module = Dac(
    net=DacConfig(strides=strides),
    sample_rate=rate,
    num_codebooks=count,
    codebook_size=1024,
    bitrates=offered,
  )
  assert [module.num_active(rate) for rate in offered] == list(range(1, count + 1))


def test_the_signal_is_filled_up_with_zeros_to_a_whole_frame():
  x = signal(1, 15, seed=3)
  filled = np.pad(x, ((0, 0), (0, 3), (0, 0)))
  np.testing.assert_array_equal(encode(codec(), x), encode(codec(), filled))
