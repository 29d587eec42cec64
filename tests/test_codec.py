import collections
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.sharding import NamedSharding, PartitionSpec as P
from random_params import draw_params

import jaxcodec
from jaxcodec.audio.dac import Dac
from jaxcodec.audio.encodec import Encodec
from jaxcodec.audio.lyra import Lyra, LyraConfig
from jaxcodec.audio.mimi import Mimi, MimiConfig
from jaxcodec.codec import fingerprint
from jaxcodec.layers.dac import DacConfig
from jaxcodec.layers.seanet import SEANetConfig

NET = SEANetConfig(num_filters=4, strides=(2, 3), dimension=8, num_lstm_layers=1)
HOP = 6
TOTAL = 32  # Frames of a signal, the last of them ragged.
LENGTH = TOTAL * HOP - 2  # Tests share it, so that they share programs.
BITRATES = (8000, 16_000)
CAUSAL = Encodec(
  net=dataclasses.replace(NET, pad_mode="zero"),
  sample_rate=6000,
  num_codebooks=4,
  codebook_size=16,
  bitrates=BITRATES,
)
MODULES = {
  "zero": CAUSAL,
  "reflect": dataclasses.replace(CAUSAL, net=NET),
  "centred": dataclasses.replace(CAUSAL, net=dataclasses.replace(NET, causal=False)),
  # Segments of 60 samples that overlap by 12: ten frames each.
  "segmented": dataclasses.replace(
    CAUSAL,
    net=dataclasses.replace(
      NET, channels=2, causal=False, norm="time_group", strides=(HOP,), num_lstm_layers=0
    ),
    segment_length=60,
    segment_stride=48,
  ),
}

MODULES["mimi"] = Mimi(
  config=MimiConfig(
    net=dataclasses.replace(
      NET, strides=(3,), num_lstm_layers=0, pad_mode="zero", conv_shortcut=False
    ),
    num_layers=2,
    num_heads=2,
    hidden=8,
    window=5,
  ),
  sample_rate=6000,
  num_codebooks=4,
  codebook_size=16,
  codebook_features=6,
  bitrates=BITRATES,
)
MODULES["lyra"] = Lyra(
  net=LyraConfig(
    widths=(4, 8),
    kernel_sizes=(6, 4),
    strides=(3, 2),
    groups=(1, 2),
    unit_groups=(2,),
    dilations=(1, 3),
    features=8,
    last_groups=2,
  ),
  sample_rate=6000,
  num_codebooks=4,
  codebook_size=16,
  bitrates=BITRATES,
)
MODULES["dac"] = Dac(
  net=DacConfig(encoder_width=4, decoder_width=16, strides=(2, 3), dimension=8),
  sample_rate=6000,
  num_codebooks=4,
  codebook_size=16,
  codebook_features=4,
  bitrates=BITRATES,
)


def fast(*names, among=tuple(MODULES)):
  """Each of `among`, the slow group for those not named: a program compiles for a second."""
  return pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in names)) for n in among]
  )


EVERY = fast(*MODULES)
STREAMS = fast("zero", among=("zero", "reflect", "centred", "mimi", "lyra"))
TRACES = collections.Counter()


def compiled(function, **options):
  """`function` jitted once for all tests, which share its programs; `TRACES` counts them."""

  @functools.wraps(function)
  def counted(*arguments, **keywords):
    TRACES[function.__name__] += 1
    return function(*arguments, **keywords)

  return jax.jit(counted, **options)


encode = compiled(jaxcodec.encode, static_argnames="bitrate")
decode = compiled(jaxcodec.decode, static_argnames="length")
encode_chunk = compiled(jaxcodec.encode_chunk, static_argnames=("bitrate", "final"))
decode_chunk = compiled(jaxcodec.decode_chunk, static_argnames="final")


def signal(batch, length, channels=1, seed=0):
  x = np.random.default_rng(seed).normal(size=(batch, length, channels))
  return np.clip(0.3 * x, -1, 1).astype(np.float32)


@functools.cache
def codec_of(name):
  """Random weights, and codebooks as wide as the latents."""
  module = MODULES[name]
  x = signal(4, 240, module.channels, seed=1)
  params = draw_params(module, x)
  latents = lambda module, x: module.encoder(x)[0]  # noqa: E731
  z = jax.jit(lambda p, x: module.apply({"params": p}, x, method=latents))(params, x)
  quantizer = params["quantizer"]
  for part in (quantizer, quantizer.get("semantic", {}), quantizer.get("acoustic", {})):
    if "codebooks" in part:
      part["codebooks"] *= z.std()
  prior = jnp.ones((4, 16), jnp.int32)
  return jaxcodec.Codec(module=module, params=params, prior=prior, name=name)


def codebooks_of(params):
  leaves = jax.tree_util.tree_leaves_with_path(params["quantizer"])
  return [leaf for path, leaf in leaves if "codebooks" in jax.tree_util.keystr(path)]


def integers(codes):
  return codes.codes if isinstance(codes, jaxcodec.ScaledCodes) else codes


@fast("zero")
def test_codes_are_the_same_with_and_without_jit(name):
  codec = codec_of(name)
  # Each shape of each operation compiles when nothing is jitted: one segment will do.
  x = signal(2, 50, codec.channels)
  eager = integers(jaxcodec.encode(codec, x))
  np.testing.assert_array_equal(integers(encode(codec, x)), eager)
  assert len(np.unique(eager)) > 4


@fast("zero", "dac")
def test_vmap_gives_the_codes_of_each(name):
  codec = codec_of(name)
  x = np.stack([signal(2, LENGTH, codec.channels, seed=s) for s in range(2)])
  mapped = integers(jax.jit(jax.vmap(jaxcodec.encode, in_axes=(None, 0)))(codec, x))
  for i in range(2):
    np.testing.assert_array_equal(mapped[i], integers(encode(codec, x[i])))


@fast("zero", "dac")
def test_decode_has_a_gradient_for_what_it_uses(name):
  codec = codec_of(name)
  codes = encode(codec, signal(2, LENGTH, codec.channels))
  weight = signal(2, LENGTH, codec.channels, seed=2)

  def loss(params):
    y = jaxcodec.decode(dataclasses.replace(codec, params=params), codes, length=LENGTH)
    return jnp.vdot(weight, y)

  gradient = jax.jit(jax.grad(loss))(codec.params)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["encoder"]))
  assert all(np.any(leaf) for leaf in codebooks_of(gradient))
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient["decoder"]):
    assert np.any(leaf), path


@fast("zero")
def test_a_sharded_batch_has_the_codes_of_the_whole(name, mesh):
  codec = codec_of(name)
  x = signal(8, LENGTH, codec.channels)
  sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
  replicated = jax.device_put(codec, NamedSharding(mesh, P()))
  codes = integers(encode(replicated, sharded))
  assert len(codes.sharding.device_set) == 8
  for i in range(0, 8, 2):
    np.testing.assert_array_equal(codes[i : i + 2], integers(encode(codec, x[i : i + 2])))


@EVERY
@pytest.mark.parametrize("length", [0, 1, HOP - 1, HOP, HOP + 1])
def test_every_length_comes_back_exactly(name, length):
  codec = codec_of(name)
  # Each length compiles anew; values of short rows are tested where rows have their own lengths.
  codes = jax.eval_shape(jaxcodec.encode, codec, signal(2, length, codec.channels))
  assert integers(codes).shape == (2, -(-length // HOP), 4)
  assert integers(codes).dtype == jnp.int32
  y = jax.eval_shape(functools.partial(jaxcodec.decode, length=length), codec, codes)
  assert y.shape == (2, length, codec.channels)
  assert y.dtype == jnp.float32


# 61 leaves a last segment longer than the overlap; 49, 60, 97 to 108 one that is not, so that the
# segment before it is short too.
@pytest.mark.parametrize("length", [48, 49, 60, 61, 96, 97, 102, 108, 109, 145, 300, 481])
def test_segments_of_any_length_come_back_exactly(length):
  codec = codec_of("segmented")
  x = jax.ShapeDtypeStruct((2, length, 2), jnp.float32)
  codes = jax.eval_shape(jaxcodec.encode, codec, x)
  assert codes.codes.shape == (2, codec.module.num_frames(length), 4)
  assert codes.scales.shape == (2, -(-length // 48))
  y = jax.eval_shape(functools.partial(jaxcodec.decode, length=length), codec, codes)
  assert y.shape == (2, length, 2)


@pytest.mark.slow
def test_segments_are_coded_alone_and_joined_by_their_weights():
  codec, length = codec_of("segmented"), 106
  x = signal(2, length, 2)
  # With no overlap, 60 samples or fewer are one segment.
  alone = dataclasses.replace(codec, module=dataclasses.replace(codec.module, segment_stride=60))
  parts = [encode(alone, x[:, start : start + 60]) for start in range(0, length, 48)]
  codes = encode(codec, x)
  np.testing.assert_array_equal(codes.codes, np.concatenate([p.codes for p in parts], axis=1))
  scales = np.concatenate([p.scales for p in parts], axis=1)
  np.testing.assert_allclose(codes.scales, scales, rtol=1e-6)
  waves = [np.asarray(decode(alone, part)) for part in parts]
  triangle = 0.5 - np.abs(np.arange(1, 61) / 61 - 0.5)
  total, weights = np.zeros((2, length + 60, 2)), np.zeros((length + 60, 1))
  for i, wave in enumerate(waves):
    there, weight = slice(48 * i, 48 * i + wave.shape[1]), triangle[: wave.shape[1], None]
    total[:, there] += weight * wave
    weights[there] += weight
  y = decode(codec, codes, length=length)
  np.testing.assert_allclose(y, total[:, :length] / weights[:length], atol=1e-6)


@pytest.mark.parametrize("hop", [1, 6, 7, 13])
@pytest.mark.parametrize(("size", "stride"), [(60, 48), (60, 60), (60, 59), (60, 30)])
def test_the_frames_of_a_signal_tell_those_of_its_segments(size, stride, hop):
  module = dataclasses.replace(
    CAUSAL,
    net=dataclasses.replace(NET, strides=(hop,)),
    segment_length=size,
    segment_stride=stride,
  )
  for length in range(1, 400):
    want = tuple(-(-min(size, length - s) // hop) for s in range(0, length, stride))
    assert sum(want) == module.num_frames(length)
    assert module.segment_split(sum(want), len(want)) == want


def test_scales_are_the_loudness_of_each_segment():
  codec = codec_of("segmented")
  x = signal(2, LENGTH, 2)
  want = [
    np.sqrt(np.mean(x[:, s : s + 60].mean(axis=-1) ** 2, axis=1)) for s in range(0, LENGTH, 48)
  ]
  codes = encode(codec, x)
  np.testing.assert_allclose(codes.scales, np.stack(want, axis=1), rtol=1e-5)
  louder = encode(codec, 2 * x)
  np.testing.assert_allclose(louder.scales, 2 * codes.scales, rtol=1e-6)
  np.testing.assert_array_equal(louder.codes, codes.codes)


@fast("zero", "segmented", "dac")
def test_a_lower_bitrate_is_the_first_codebooks(name):
  codec = codec_of(name)
  x = signal(2, LENGTH, codec.channels)
  whole = integers(encode(codec, x))
  low = integers(encode(codec, x, bitrate=8000))
  # 1000 frames a second of 4 bits.
  assert low.shape[-1] == 2
  np.testing.assert_array_equal(low, whole[..., :2])


def test_zeros_after_the_signal_change_nothing_before_them():
  codec = codec_of("zero")
  x = signal(2, 45)
  padded = np.pad(x, ((0, 0), (0, 25), (0, 0)))
  np.testing.assert_array_equal(encode(codec, padded)[:, :8], encode(codec, x))


@pytest.mark.parametrize(
  ("x", "words"),
  [
    (np.zeros((1, 60, 1), np.int16), "floating.*int16"),
    (np.zeros((1, 60, 2), np.float32), r"\[batch, time, 1\], got shape \(1, 60, 2\)"),
    (np.zeros((60, 1), np.float32), r"got shape \(60, 1\)"),
    (np.zeros((60,), np.float32), r"got shape \(60,\)"),
  ],
)
def test_a_wrong_signal_is_named(x, words):
  with pytest.raises(ValueError, match=words):
    jaxcodec.encode(codec_of("zero"), x)


def test_a_bitrate_that_is_not_offered_is_named_with_those_that_are():
  with pytest.raises(ValueError, match="no bitrate 6000 bit/s; it has 8000, 16000"):
    jaxcodec.encode(codec_of("zero"), signal(1, 60), bitrate=6000)


@pytest.mark.parametrize(
  ("codes", "words"),
  [
    (np.zeros((1, 3, 4), np.float32), "codes must be integers, got float32"),
    (np.zeros((1, 3, 5), np.int32), r"1 to 4\], got shape \(1, 3, 5\)"),
    (np.zeros((1, 3, 0), np.int32), r"got shape \(1, 3, 0\)"),
    (np.zeros((3, 4), np.int32), r"got shape \(3, 4\)"),
    (jaxcodec.ScaledCodes(np.zeros((1, 3, 4), np.int32), np.ones((1, 1))), "an array of codes"),
  ],
)
def test_wrong_codes_are_named(codes, words):
  with pytest.raises(ValueError, match=words):
    jaxcodec.decode(codec_of("zero"), codes)


@pytest.mark.parametrize("length", [-1, 19])
def test_a_length_that_the_codes_do_not_cover_is_named(length):
  codes = np.zeros((1, 3, 4), np.int32)
  with pytest.raises(ValueError, match=f"length {length} of a signal of 18 samples"):
    decode(codec_of("zero"), codes, length=length)


def test_a_normalised_codec_wants_a_scale_per_segment():
  codec = codec_of("segmented")
  with pytest.raises(ValueError, match="decodes ScaledCodes"):
    jaxcodec.decode(codec, np.zeros((1, 3, 4), np.int32))
  with pytest.raises(ValueError, match="2 scales for 3 frames in segments of 10"):
    jaxcodec.decode(codec, jaxcodec.ScaledCodes(np.zeros((1, 3, 4), np.int32), np.ones((1, 2))))


@functools.cache
def whole_of(name):
  x = signal(2, LENGTH, seed=4)
  codes = encode(codec_of(name), x)
  return x, codes, decode(codec_of(name), codes)


def chunks(name):
  """Sizes in frames, in any order but for the first and the last, so that few shapes compile.

  The last layer of a reflecting encoder reflects six frames; a centred one looks eight ahead.
  """
  middle = [8, 9] if name == "centred" else [1, 1, 3, 3, 3, 3, 3]
  return st.permutations(middle).map(lambda sizes: [7, *sizes, 8])


def joined_chunks(codec, function, sizes, array, step):
  state, parts = jaxcodec.init_stream(codec, batch=2), []
  for start, stop in itertools.pairwise(np.cumsum([0, *sizes])):
    part = array[:, start * step : stop * step]
    state, y = function(codec, state, part, final=bool(stop == TOTAL))
    parts.append(y)
  return np.concatenate(parts, axis=1)


@STREAMS
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_encoding_in_chunks_gives_the_codes_of_the_whole(name, data):
  codec, (x, want, _) = codec_of(name), whole_of(name)
  got = joined_chunks(codec, encode_chunk, data.draw(chunks(name)), x, HOP)
  np.testing.assert_array_equal(got, want)


@STREAMS
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_decoding_in_chunks_gives_the_wave_of_the_whole(name, data):
  codec, (_, codes, want) = codec_of(name), whole_of(name)
  got = joined_chunks(codec, decode_chunk, data.draw(chunks(name)), codes, 1)
  np.testing.assert_allclose(got, want, atol=1e-5)


@fast("zero", among=("zero", "reflect", "mimi", "lyra"))
def test_a_chunk_in_pieces_gives_what_it_gives_at_once(name, monkeypatch):
  codec, (x, want, wave) = codec_of(name), whole_of(name)
  loops = encode.lower(codec, x).as_text().count("stablehlo.while")
  monkeypatch.setattr(type(codec.module), "piece_seconds", 0.011)
  # Functions of its own, as traces are kept by function.
  in_pieces, decoded = (
    jax.jit(lambda *a: jaxcodec.encode(*a)),
    jax.jit(lambda *a: jaxcodec.decode(*a)),
  )
  assert in_pieces.lower(codec, x).as_text().count("stablehlo.while") > loops
  # 32 frames as eleven, eleven and ten with one that is not there, or ten, ten and twelve.
  np.testing.assert_array_equal(in_pieces(codec, x), want)
  np.testing.assert_allclose(decoded(codec, want), wave, atol=1e-5)
  # And a chunk of 20 as two of ten, whose state goes on.
  state = jaxcodec.init_stream(codec, batch=2)
  state, codes = jax.jit(lambda *a: jaxcodec.encode_chunk(*a))(codec, state, x[:, : 20 * HOP])
  state, y = jax.jit(lambda *a: jaxcodec.decode_chunk(*a))(codec, state, codes)
  monkeypatch.undo()
  np.testing.assert_array_equal(codes, want[:, :20])
  state, rest = encode_chunk(codec, state, x[:, 20 * HOP :], final=True)
  np.testing.assert_array_equal(rest, want[:, 20:])
  _, end = decode_chunk(codec, state, rest, final=True)
  np.testing.assert_allclose(np.concatenate([y, end], axis=1), wave, atol=1e-5)


@fast("zero", among=("zero", "reflect", "mimi", "lyra"))
def test_a_row_starts_anew_while_another_goes_on(name):
  codec, (x, want, wave) = codec_of(name), whole_of(name)
  size = 7  # Frames, for the first chunk of a reflecting codec.
  state, codes, waves = jaxcodec.init_stream(codec, batch=2), [], []
  for i in range(3):
    if i == 2:  # Row 0 gets a new signal.
      state = jaxcodec.reset_stream(codec, state, np.array([True, False]))
    source = [x[0, : size * HOP] if i == 2 else x[0, i * size * HOP : (i + 1) * size * HOP]]
    source.append(x[1, i * size * HOP : (i + 1) * size * HOP])
    state, part = encode_chunk(codec, state, np.stack(source))
    codes.append(part)
    state, y = decode_chunk(codec, state, part)
    waves.append(y)
  np.testing.assert_array_equal(np.concatenate(codes, axis=1)[1], want[1, : 3 * size])
  np.testing.assert_array_equal(codes[2][0], want[0, :size])
  ends = size * HOP
  np.testing.assert_allclose(np.concatenate(waves, axis=1)[1], wave[1, : 3 * ends], atol=1e-5)
  np.testing.assert_allclose(waves[2][0], wave[0, :ends], atol=1e-5)


def test_rows_that_lag_start_together():
  codec = codec_of("centred")
  with pytest.raises(ValueError, match="not causal: rows of a batch start together"):
    jaxcodec.reset_stream(codec, jaxcodec.init_stream(codec, 2), np.array([True, False]))


encode_rows = jax.jit(lambda codec, x, length: jaxcodec.encode(codec, x, length=length))
decode_rows = jax.jit(lambda codec, codes, length: jaxcodec.decode(codec, codes, length=length))


@STREAMS
@given(lengths=st.permutations([0, 1, 45, 72]))
@settings(max_examples=5, deadline=None)
def test_rows_of_their_own_lengths_are_coded_as_if_alone(name, lengths):
  codec, x = codec_of(name), signal(4, 72, seed=6)
  codes = encode_rows(codec, x, np.array(lengths))
  waves = decode_rows(codec, codes, np.array(lengths))
  assert waves.shape == x.shape
  for row, length in enumerate(lengths):
    frames = -(-length // HOP)
    assert (codes[row, :frames] >= 0).all()
    assert (codes[row, frames:] == -1).all()
    assert not waves[row, length:].any()
    if length:
      alone = encode(codec, x[row : row + 1, :length])
      np.testing.assert_array_equal(codes[row : row + 1, :frames], alone)
      wave = decode(codec, alone, length=length)
      np.testing.assert_allclose(waves[row : row + 1, :length], wave, atol=1e-5)


def test_wrong_lengths_are_named():
  codec, x = codec_of("zero"), signal(2, 60)
  with pytest.raises(ValueError, match=r"length must be integers \[2\], got int32\[3\]"):
    jaxcodec.encode(codec, x, length=np.array([1, 2, 3], np.int32))


@pytest.mark.slow
def test_rows_of_their_own_lengths_are_cut_into_segments_as_if_alone():
  """49 and 106 end within an overlap, so that the segment before is short too."""
  codec, lengths = codec_of("segmented"), [0, 49, 106]
  x = signal(3, 106, 2, seed=6)
  coded = encode_rows(codec, x, np.array(lengths))
  assert coded.codes.shape == (3, 30, 4)
  waves = decode_rows(codec, coded, np.array(lengths))
  for row, length in enumerate(lengths):
    alone = encode(codec, x[row : row + 1, :length])
    sizes = codec.module.segment_sizes(length)
    parts = [coded.codes[row, 10 * i : 10 * i + size] for i, size in enumerate(sizes)]
    np.testing.assert_array_equal(np.concatenate([*parts, alone.codes[0, :0]]), alone.codes[0])
    assert (coded.codes[row] >= 0).all(axis=-1).sum() == sum(sizes)
    np.testing.assert_allclose(coded.scales[row, : len(sizes)], alone.scales[0], rtol=1e-6)
    assert not coded.scales[row, len(sizes) :].any()
    wave = decode(codec, alone, length=length)[0]
    np.testing.assert_allclose(waves[row, :length], wave, atol=1e-5)
    assert not waves[row, length:].any()


def test_a_stream_may_end_with_an_empty_chunk():
  codec, (x, want, _) = codec_of("zero"), whole_of("zero")
  state = jaxcodec.init_stream(codec, batch=2)
  state, codes = encode_chunk(codec, state, x[:, : 4 * HOP], bitrate=8000)
  np.testing.assert_array_equal(codes, want[:, :4, :2])
  _, nothing = jaxcodec.encode_chunk(codec, state, x[:, :0], final=True)
  assert nothing.shape == (2, 0, 4)


def test_what_cannot_stream_says_so():
  with pytest.raises(ValueError, match="sees all of a signal at once: it takes it whole"):
    jaxcodec.init_stream(codec_of("segmented"))
  codec = codec_of("zero")
  with pytest.raises(ValueError, match="a chunk of 7 samples is no multiple of 6"):
    jaxcodec.encode_chunk(codec, jaxcodec.init_stream(codec), signal(1, 7))
  reflect = codec_of("reflect")
  with pytest.raises(ValueError, match="the first chunk is too short"):
    jaxcodec.encode_chunk(reflect, jaxcodec.init_stream(reflect), signal(1, HOP))


@EVERY
def test_a_codec_is_a_pytree_of_its_arrays(name):
  codec = codec_of(name)
  copy = jax.tree.map(lambda leaf: leaf, codec)
  assert isinstance(copy, jaxcodec.Codec)
  assert copy.module == codec.module
  assert copy.name == codec.name
  assert jax.tree.structure(copy) == jax.tree.structure(codec)
  assert len(jax.tree.leaves(codec)) == len(jax.tree.leaves(codec.params)) + 1
  assert fingerprint(copy) == fingerprint(codec)


def test_the_fingerprint_tells_weights_priors_and_configurations_apart():
  codec = codec_of("zero")
  bias = codec.params["decoder"]["conv_out"]["bias"]
  params = jax.tree.map(lambda leaf: leaf, codec.params)
  params["decoder"]["conv_out"]["bias"] = bias.at[0].set(jnp.nextafter(bias[0], 1.0))
  others = [
    dataclasses.replace(codec, params=params),
    dataclasses.replace(codec, prior=codec.prior.at[0, 0].add(1)),
    dataclasses.replace(codec, module=dataclasses.replace(codec.module, sample_rate=6001)),
    dataclasses.replace(codec, module=MODULES["reflect"]),
  ]
  prints = [fingerprint(codec), *map(fingerprint, others)]
  assert len(set(prints)) == len(prints)
  assert all(len(p) == 16 for p in prints)
  assert fingerprint(dataclasses.replace(codec, name="renamed")) == prints[0]


def test_one_compilation_serves_every_signal_of_a_shape():
  codec = codec_of("zero")
  encode(codec, signal(2, LENGTH))
  before = TRACES["encode"]
  encode(jax.tree.map(lambda leaf: np.array(leaf), codec), signal(2, LENGTH, seed=1))
  assert TRACES["encode"] == before


@pytest.mark.parametrize("name", ["zero", "mimi", "lyra"])
def test_one_compilation_serves_a_stream(name):
  codec, (x, _, _) = codec_of(name), whole_of(name)
  state, size, before = jaxcodec.init_stream(codec, 2), 7, None
  for i in range(3):
    state, codes = encode_chunk(codec, state, x[:, size * i * HOP : size * (i + 1) * HOP])
    state, _ = decode_chunk(codec, state, codes)
    before = before or TRACES.copy()
  assert before == TRACES
