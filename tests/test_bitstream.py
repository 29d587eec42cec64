"""Signals to bytes and back, for each kind of codec."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import draw_params

import jaxcodec
from jaxcodec import bitstream, codec as codec_lib
from jaxcodec.audio.encodec import Encodec
from jaxcodec.entropy import container
from jaxcodec.layers.seanet import SEANetConfig

TINY = {"num_filters": 2, "strides": (2, 5), "dimension": 4, "num_lstm_layers": 1}


def make_codec(**fields) -> jaxcodec.Codec:
  net = SEANetConfig(**TINY, **fields.pop("net", {}))
  settings = {
    "sample_rate": 100,
    "num_codebooks": 3,
    "codebook_size": 16,
    "bitrates": (40, 80, 120),
  }
  module = Encodec(net=net, **(settings | fields))
  params = draw_params(module, np.zeros((1, 200, net.channels), np.float32))
  prior = jnp.ones((3, 16), jnp.int32)
  return jaxcodec.Codec(module=module, params=params, prior=prior, name="tiny")


CODECS = {
  "zero": make_codec(net={"pad_mode": "zero"}),
  "reflect": make_codec(),
  "whole": make_codec(net={"causal": False}),
  "segmented": make_codec(
    net={"causal": False, "norm": "time_group", "channels": 2},
    segment_length=400,
    segment_stride=380,
  ),
}
ENCODE = jax.jit(jaxcodec.encode, static_argnames="bitrate")
DECODE = jax.jit(jaxcodec.decode, static_argnames="length")

# One chunk of ten seconds is 1000 samples here. Shapes compile anew but for "zero", which has one.
FAST = [("zero", n) for n in (0, 11, 1000, 1001)]
SLOW = [("reflect", 1), ("reflect", 1000), ("reflect", 2345), ("whole", 1), ("whole", 3000)]
SLOW += [("segmented", n) for n in (0, 1, 382, 2700)]
CASES = FAST + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW]


def signal(codec, batch: int, length: int) -> np.ndarray:
  return np.random.default_rng(0).normal(0, 0.3, (batch, length, codec.channels)).astype(np.float32)


@pytest.mark.parametrize(("kind", "length"), CASES)
def test_bytes_hold_the_codes_of_the_whole_and_the_exact_length(kind, length):
  codec = CODECS[kind]
  x = signal(codec, 2, length)
  data = jaxcodec.compress(codec, x, bitrate=80)
  whole = ENCODE(codec, x, bitrate=80)
  chunks = list(container.read_chunks(data, np.asarray(codec.prior)[:2]))
  if isinstance(whole, jaxcodec.ScaledCodes):
    if chunks:
      found = np.concatenate([scales for _, scales in chunks], axis=1)
      np.testing.assert_allclose(found, whole.scales, rtol=1e-6)
  elif chunks:
    np.testing.assert_array_equal(np.concatenate([c for c, _ in chunks], axis=1), whole)
  y = jaxcodec.decompress(data, codec)
  assert y.shape == x.shape
  assert y.dtype == np.float32
  np.testing.assert_allclose(y, DECODE(codec, whole, length=length), atol=1e-5)


@pytest.mark.parametrize("kind", ["zero", pytest.param("reflect", marks=pytest.mark.slow)])
def test_blocks_of_any_size_give_the_same_bytes(kind):
  codec = CODECS[kind]
  x = signal(codec, 1, 2345)
  whole = jaxcodec.compress(codec, x)
  cuts = [0, 1, 1, 700, 1000, 2000, 2344, 2345]
  blocks = [x[:, a:b] for a, b in itertools.pairwise(cuts)]
  assert bitstream.compress_blocks(codec, blocks) == whole
  stream, parts = bitstream.decompress_blocks(whole, codec)
  assert stream.num_samples == 2345
  assert [part.shape[1] for part in parts] == [1000, 1000, 345]


def test_the_bundled_codec_is_found_by_the_name_in_the_file():
  codec = jaxcodec.load("speech-16khz")
  x = signal(codec, 1, 1600)
  data = jaxcodec.compress(codec, x, bitrate=1000)
  np.testing.assert_array_equal(jaxcodec.decompress(data), jaxcodec.decompress(data, codec))


def test_a_codec_that_is_not_bundled_must_be_given():
  data = jaxcodec.compress(CODECS["zero"], signal(CODECS["zero"], 1, 10))
  with pytest.raises(jaxcodec.CodecError, match="'tiny', which is not bundled"):
    jaxcodec.decompress(data)


def test_other_weights_are_refused():
  codec = CODECS["zero"]
  data = jaxcodec.compress(codec, signal(codec, 1, 10))
  other = dataclasses.replace(codec, params=jax.tree.map(lambda p: p + 1, codec.params))
  with pytest.raises(jaxcodec.CodecError, match="other weights"):
    jaxcodec.decompress(data, other)


def test_a_header_that_does_not_fit_its_codec_is_refused():
  codec = CODECS["zero"]
  header = container.read_header(jaxcodec.compress(codec, signal(codec, 1, 10)))
  for field, value in (
    ("sample_rate", 99),
    ("channels", 2),
    ("hop_length", 11),
    ("num_samples", 1),
  ):
    changes = {"num_frames": 2, "num_samples": 10} | {field: value}
    wrong = container.Header(streams=(dataclasses.replace(header.streams[0], **changes),))
    records = [container.encode_chunk(wrong, 0, np.zeros((1, 2, 3), int))]
    with pytest.raises(jaxcodec.CodecError, match="the file's"):
      jaxcodec.decompress(container.write(wrong, records), codec)


def test_wrong_signals_are_the_callers_mistake():
  codec = CODECS["zero"]
  for x, message in (
    (np.zeros((1, 10, 2), np.float32), "shape"),
    (np.zeros(10, np.float32), "shape"),
    (np.zeros((1, 10, 1), np.int16), "floating"),
    (np.full((1, 10, 1), np.nan), "sample 0 .* not finite"),
  ):
    with pytest.raises(ValueError, match=message):
      jaxcodec.compress(codec, x)
  with pytest.raises(ValueError, match="no bitrate 41"):
    jaxcodec.compress(codec, np.zeros((1, 10, 1), np.float32), bitrate=41)


def test_the_fingerprint_is_that_of_configuration_weights_and_prior():
  codec = CODECS["zero"]
  assert codec_lib.fingerprint(codec) == codec_lib.fingerprint(jax.tree.map(jnp.array, codec))
  for other in (
    dataclasses.replace(codec, prior=codec.prior + 1),
    dataclasses.replace(codec, params=jax.tree.map(lambda p: -p, codec.params)),
    dataclasses.replace(codec, module=codec.module.clone(sample_rate=101)),
  ):
    assert codec_lib.fingerprint(other) != codec_lib.fingerprint(codec)
