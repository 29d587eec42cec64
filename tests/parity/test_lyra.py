"""Lyra V2 against its own files as TensorFlow Lite runs them.

The interpreter's kernel sets agree with one another only to about 27 dB. What is exact here is
compared with its reference kernels (`OpResolverType.BUILTIN_REF`); the stored outputs in
lyra_reference.npz are of its default ones.
"""

import functools
import io
import tarfile

import jax
import numpy as np
import pytest
import soundfile

import jaxcodec

interpreter = pytest.importorskip(
  "ai_edge_litert.interpreter", reason="ai-edge-litert comes with the parity extra"
)

pytestmark = pytest.mark.parity

SAMPLES = ("sample1_16kHz", "sample2_16kHz")
STAGES = (16, 30, 46)
HOP = 320


def unit(name, *tensors):
  """Our names of an integer unit's parts, and the file's numbers of their tensors."""
  parts = ("leaky_0", "depthwise", "conv_0", "leaky_1", "conv_1")
  return dict(zip([*(f"{name}/{part}" for part in parts), name], tensors, strict=True))


# Every tensor of 8-bit integers in the files but copies and slices of these, and the results of
# transposed convolutions, of which UPSAMPLED are the sums with the last frame's tails.
ENCODER = {
  "unit_2_0/quantize_0": 155,
  "unit_2_0/leaky_1": 156,
  "unit_2_0/conv_1": 158,
  "unit_2_0/quantize_1": 161,
  **unit("unit_2_1", 162, 170, 172, 173, 175, 176),
  **unit("unit_2_2", 177, 185, 187, 188, 190, 191),
  "leaky_3": 192,
  "down_3": 200,
  "leaky_out": 201,
  "conv_out": 208,
}
DECODER = {
  "quantize": 120,
  "unit_2_0/quantize_0": 166,
  "unit_2_0/depthwise": 173,
  "unit_2_0/conv_0": 175,
  "unit_2_0/leaky_1": 176,
  "unit_2_0/conv_1": 178,
  "unit_2_0/quantize_1": 181,
  **unit("unit_2_1", 182, 189, 191, 192, 194, 195),
  **unit("unit_2_2", 196, 203, 205, 206, 208, 209),
  "leaky_2": 210,
}
UPSAMPLED = {"up_3": 164, "up_2": 231}


@pytest.fixture(scope="module")
def lyra(data):
  return data / "lyra"


@pytest.fixture(scope="module")
def stored(lyra):
  with np.load(lyra / "lyra_reference.npz") as file:
    return dict(file)


@pytest.fixture(scope="module")
def codecs(lyra):
  return {exact: jaxcodec.load(lyra, exact=exact) for exact in (False, True)}


def sound(lyra, stored, name):
  """Whole frames of a clip, as they were given to the files: [F, 320]."""
  pcm, rate = soundfile.read(lyra / f"{name}.wav", dtype="int16")
  assert rate == 16_000
  frames = len(stored[f"{name}/features"])
  return (pcm[: frames * HOP] / 32768).astype(np.float32).reshape(frames, HOP)


def run_file(path, inputs, tensors=()):
  """Outputs of the reference kernels from a fresh state, input by input, and those tensors."""
  model = interpreter.Interpreter(
    model_path=str(path),
    experimental_op_resolver_type=interpreter.OpResolverType.BUILTIN_REF,
    experimental_preserve_all_tensors=True,
  )
  model.allocate_tensors()
  (into,), (out,) = model.get_input_details(), model.get_output_details()
  outputs, found = [], {index: [] for index in tensors}
  for x in inputs:
    model.set_tensor(into["index"], x.reshape(into["shape"]))
    model.invoke()
    outputs.append(model.get_tensor(out["index"]).reshape(-1))
    for index in tensors:
      found[index].append(model.get_tensor(index)[0, :, 0])
  return np.stack(outputs), {index: np.concatenate(parts) for index, parts in found.items()}


@functools.partial(jax.jit, static_argnums=(0, 2))
def apply(module, params, part, x):
  """Output of the encoder or decoder and everything that their parts returned."""
  y, returned = module.apply(
    {"params": params},
    x,
    method=lambda module, x: getattr(module, part)(x)[0],
    capture_intermediates=True,
    mutable=["intermediates"],
  )
  return y, returned["intermediates"][part]


def integers(returned, params, path):
  """What the part at `path` returned, as the file's integers: [T, C]."""
  for name in path.split("/"):
    returned, params = returned[name], params[name]
  y = returned["__call__"][0]
  y = y[0] if isinstance(y, tuple) else y
  return np.asarray(y)[0] + np.asarray(params["zero_point"])


def shares_of_equal(codec, part, returned, names, tensors):
  shares = {}
  for path, index in names.items():
    got, want = integers(returned, codec.params[part], path), tensors[index]
    assert got.shape == want.shape, path
    assert want.dtype == np.int8
    shares[path] = np.mean(got == want)
  return shares


def quantizer(codec, z):
  function = jax.jit(lambda p, z: codec.module.apply({"params": p}, z, method=encode_latents))
  return np.asarray(function(codec.params, z))


def encode_latents(module, z):
  return module.quantizer.encode(z)


def snr(want, got):
  return 10 * np.log10(np.sum(want**2.0) / np.sum((want.astype(np.float64) - got) ** 2))


@pytest.mark.parametrize("name", SAMPLES)
def test_codes_of_the_stored_features_are_all_equal(codecs, stored, name):
  codec = codecs[False]
  codes = quantizer(codec, stored[f"{name}/features"])
  np.testing.assert_array_equal(codes, stored[f"{name}/codes"])
  for stages in STAGES:
    z = jaxcodec.functional.residual_decode(
      codes[:, :stages], codec.params["quantizer"]["codebooks"]
    )
    np.testing.assert_allclose(z, stored[f"{name}/quantized_{stages}"], atol=1e-5)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_float_networks_are_as_near_as_rounded_activations_let_them(codecs, lyra, stored, name):
  codec, want = codecs[False], stored[f"{name}/features"]
  x = sound(lyra, stored, name).reshape(1, -1, 1)
  z, _ = apply(codec.module, codec.params, "encoder", x)
  error = np.linalg.norm(z[0] - want) / np.linalg.norm(want)
  print(f"relative error of the features {error:.1%}")
  assert error <= 0.08
  for stages in STAGES:
    quantized = stored[f"{name}/quantized_{stages}"][None]
    y, _ = apply(codec.module, codec.params, "decoder", quantized)
    level = snr(stored[f"{name}/decoded_{stages}"], np.asarray(y).ravel())
    print(f"{stages} stages: {level:.1f} dB")
    assert level >= 20


def test_the_float_part_before_the_first_integers_is_that_of_the_files(codecs, lyra, stored):
  codec, name = codecs[True], SAMPLES[0]
  x = sound(lyra, stored, name).reshape(1, -1, 1)
  _, returned = apply(codec.module, codec.params, "encoder", x)
  got = np.asarray(returned["unit_2_0"]["conv_0"]["__call__"][0][0])[0, :80]
  want = stored[f"{name}/pre_int8_first40"].reshape(80, 256)
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", SAMPLES)
def test_integers_and_codes_of_the_exact_encoder_equal_the_reference_kernels(
  codecs, lyra, stored, name
):
  codec, frames = codecs[True], sound(lyra, stored, name)
  features, tensors = run_file(lyra / "soundstream_encoder.tflite", frames, ENCODER.values())
  z, returned = apply(codec.module, codec.params, "encoder", frames.reshape(1, -1, 1))
  shares = shares_of_equal(codec, "encoder", returned, ENCODER, tensors)
  print(f"share of equal integers: {min(shares.values()):.4%} in the worst of {len(shares)}")
  assert min(shares.values()) >= 0.99, shares
  same = np.mean(np.asarray(z[0]) == features)
  frames_same = np.mean((quantizer(codec, z)[0] == quantizer(codec, features)).all(axis=-1))
  print(f"equal features {same:.2%}, frames with equal codes {frames_same:.2%}")
  assert same >= 0.99
  assert frames_same >= 0.99


@pytest.mark.parametrize("name", SAMPLES)
def test_integers_and_wave_of_the_exact_decoder_equal_the_reference_kernels(
  codecs, lyra, stored, name
):
  codec = codecs[True]
  for stages in STAGES:
    quantized = stored[f"{name}/quantized_{stages}"]
    watched = (*DECODER.values(), *UPSAMPLED.values())
    wave, tensors = run_file(lyra / "lyragan.tflite", quantized, watched)
    y, returned = apply(codec.module, codec.params, "decoder", quantized[None])
    shares = shares_of_equal(codec, "decoder", returned, DECODER, tensors)
    for path, index in UPSAMPLED.items():
      got = np.asarray(returned[path]["__call__"][0][0])[0]
      shares[path] = np.mean(got == tensors[index])
    level = snr(wave.ravel(), np.asarray(y).ravel())
    worst = min(shares.values())
    print(f"{stages} stages: {level:.1f} dB, integers equal {worst:.4%} in the worst of its parts")
    assert worst >= 0.99, shares
    assert level >= 40


@pytest.mark.parametrize("index", [0, 24, 48])
def test_held_out_speech_has_the_codes_and_the_wave_of_the_reference_kernels(
  codecs, lyra, data, index
):
  codec = codecs[True]
  with tarfile.open(data / "speech" / "speech_test.tar") as tar:
    member = sorted((m for m in tar if m.isfile()), key=lambda m: m.name)[index]
    wave, _ = soundfile.read(io.BytesIO(tar.extractfile(member).read()), dtype="float32")
  frames = np.pad(wave[: 250 * HOP], (0, max(0, 250 * HOP - len(wave)))).reshape(250, HOP)
  features, _ = run_file(lyra / "soundstream_encoder.tflite", frames)
  want = quantizer(codec, features)
  codes = jax.jit(jaxcodec.encode)(codec, frames.reshape(1, -1, 1))
  same = np.mean((codes[0] == want).all(axis=-1))
  codebooks = codec.params["quantizer"]["codebooks"]
  quantized = np.asarray(jaxcodec.functional.residual_decode(want, codebooks))
  sound, _ = run_file(lyra / "lyragan.tflite", quantized)
  level = snr(sound.ravel(), np.asarray(jax.jit(jaxcodec.decode)(codec, codes)).ravel())
  print(f"{member.name}: frames with equal codes {same:.2%}, wave {level:.1f} dB")
  assert same >= 0.99
  assert level >= 40


@pytest.mark.slow
def test_the_exact_codec_in_chunks_gives_the_codes_and_wave_of_the_whole(codecs, lyra, stored):
  codec = codecs[True]
  x = sound(lyra, stored, SAMPLES[1])[:60].reshape(1, -1, 1)
  encode, decode = jax.jit(jaxcodec.encode), jax.jit(jaxcodec.decode)
  encode_chunk, decode_chunk = jax.jit(jaxcodec.encode_chunk), jax.jit(jaxcodec.decode_chunk)
  codes = encode(codec, x)
  wave = decode(codec, codes)
  state, found, waves = jaxcodec.init_stream(codec), [], []
  for chunk in np.split(x, 12, axis=1):
    state, part = encode_chunk(codec, state, chunk)
    state, y = decode_chunk(codec, state, part)
    found.append(part)
    waves.append(y)
  np.testing.assert_array_equal(np.concatenate(found, axis=1), codes)
  np.testing.assert_allclose(np.concatenate(waves, axis=1), wave, atol=1e-5)
