"""Directories in the Hugging Face layout of EnCodec, whole and damaged, written without PyTorch."""

import json
import math
import pathlib

import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxcodec

CONFIG = {
  "model_type": "encodec",
  "sampling_rate": 8000,
  "target_bandwidths": [4.0, 8.0],
  "num_filters": 2,
  "hidden_size": 3,
  "upsampling_ratios": [4, 2],
  "num_lstm_layers": 1,
  "codebook_size": 16,
}


def tensors_of(config):
  """Random arrays under the names and shapes of `transformers.EncodecModel`."""
  rng, tensors = np.random.default_rng(0), {}
  width, dimension, ratios = config["num_filters"], 3, config["upsampling_ratios"]

  def put(name, *shape):
    tensors[name] = rng.normal(size=shape).astype(np.float32)

  def conv(prefix, features_in, features_out, taps, transposed=False):
    shape = (features_in, features_out) if transposed else (features_out, features_in)
    put(f"{prefix}.conv.bias", features_out)
    if config.get("norm_type") == "time_group_norm":
      put(f"{prefix}.conv.weight", *shape, taps)
      put(f"{prefix}.norm.weight", features_out)
      put(f"{prefix}.norm.bias", features_out)
    else:
      put(f"{prefix}.conv.parametrizations.weight.original0", shape[0], 1, 1)
      put(f"{prefix}.conv.parametrizations.weight.original1", *shape, taps)

  def residual(prefix, width):
    conv(f"{prefix}.block.1", width, width // 2, 3)
    conv(f"{prefix}.block.3", width // 2, width, 1)
    conv(f"{prefix}.shortcut", width, width, 1)

  def lstm(prefix, width):
    for kind in ("ih", "hh"):
      put(f"{prefix}.lstm.weight_{kind}_l0", 4 * width, width)
      put(f"{prefix}.lstm.bias_{kind}_l0", 4 * width)

  channels = config.get("audio_channels", 1)
  conv("encoder.layers.0", channels, width, 7)
  for i, ratio in enumerate(reversed(ratios)):
    residual(f"encoder.layers.{1 + 3 * i}", width)
    conv(f"encoder.layers.{3 + 3 * i}", width, 2 * width, 2 * ratio)
    width *= 2
  lstm("encoder.layers.7", width)
  conv("encoder.layers.9", width, dimension, 7)
  conv("decoder.layers.0", dimension, width, 7)
  lstm("decoder.layers.1", width)
  for i, ratio in enumerate(ratios):
    conv(f"decoder.layers.{3 + 3 * i}", width, width // 2, 2 * ratio, transposed=True)
    width //= 2
    residual(f"decoder.layers.{4 + 3 * i}", width)
  conv("decoder.layers.9", width, channels, 7)
  for q in range(2):  # 8000 bit/s at 1000 frames/s of 4 bits.
    prefix = f"quantizer.layers.{q}.codebook."
    put(prefix + "embed", 16, dimension)
    put(prefix + "embed_avg", 16, dimension)
    put(prefix + "cluster_size", 16)
    put(prefix + "inited", 1)
  return tensors


def write(directory, config=CONFIG, tensors=None):
  directory.mkdir(exist_ok=True)
  (directory / "config.json").write_text(json.dumps(config))
  save_file(tensors_of(config) if tensors is None else tensors, directory / "model.safetensors")
  return directory


@pytest.fixture
def directory(tmp_path):
  return write(tmp_path / "tiny")


def error_of(name_or_path):
  """The one line that `load` says."""
  with pytest.raises(jaxcodec.CodecError) as caught:
    jaxcodec.load(name_or_path)
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  return message


def test_a_whole_directory_loads(directory):
  codec = jaxcodec.load(directory)
  assert codec.name == "tiny"
  assert codec.bitrates == (4000, 8000)
  assert codec.codebook_sizes == (16, 16)
  assert codec.hop_length == 8
  x = np.zeros((1, 17, 1), np.float32)
  assert jaxcodec.encode(codec, x).shape == (1, 3, 2)
  assert str(jaxcodec.load(str(directory)).module) == str(codec.module)


def test_weight_norm_is_folded_over_all_axes_but_the_first(directory):
  tensors, params = tensors_of(CONFIG), jaxcodec.load(directory).params
  # A transposed convolution's first axis is the input's: [in, out, taps] to [taps, in, out].
  for name, kernel, axes in (
    ("encoder.layers.0", params["encoder"]["conv_in"]["kernel"], (2, 1, 0)),
    ("decoder.layers.3", params["decoder"]["up_0"]["kernel"], (2, 0, 1)),
  ):
    g, v = (tensors[f"{name}.conv.parametrizations.weight.original{i}"] for i in (0, 1))
    norms = np.array([np.linalg.norm(part) for part in v])[:, None, None]
    np.testing.assert_allclose(kernel, (g * v / norms).transpose(axes), rtol=1e-6)


@pytest.mark.slow
def test_a_normalised_stereo_directory_loads(tmp_path):
  config = CONFIG | {
    "audio_channels": 2,
    "norm_type": "time_group_norm",
    "use_causal_conv": False,
    "normalize": True,
    "chunk_length_s": 0.01,
    "overlap": 0.1,
  }
  codec = jaxcodec.load(write(tmp_path / "stereo", config))
  assert codec.module.segment_length == 80
  assert codec.module.segment_stride == 72
  assert not codec.streams
  assert jaxcodec.encode(codec, np.ones((1, 30, 2), np.float32)).scales.shape == (1, 1)


NAMES = (
  "encoder.layers.0.conv.bias",
  "encoder.layers.4.block.1.conv.parametrizations.weight.original1",
  "encoder.layers.7.lstm.weight_hh_l0",
  "decoder.layers.3.conv.parametrizations.weight.original0",
  "quantizer.layers.1.codebook.embed",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_weight_is_named(directory, name):
  tensors = tensors_of(CONFIG)
  del tensors[name]
  write(directory, tensors=tensors)
  # Of a pair the reader may ask for its older name first.
  stem = name.removesuffix("parametrizations.weight.original0")
  assert f"lacks the weight {stem}" in error_of(directory)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_another_shape_is_named_with_both_shapes(directory, name):
  tensors = tensors_of(CONFIG)
  shape = tensors[name].shape
  tensors[name] = np.zeros((shape[0] + 1, *shape[1:]), np.float32)
  write(directory, tensors=tensors)
  message = error_of(directory)
  assert name in message
  assert str(shape) in message
  assert str(tensors[name].shape) in message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(directory, name, value):
  tensors = tensors_of(CONFIG)
  tensors[name].flat[-1] = value
  write(directory, tensors=tensors)
  assert f"weight {name} " in (message := error_of(directory))
  assert "not finite" in message


def test_an_extra_weight_is_named(directory):
  extra = {"encoder.layers.10.conv.bias": np.zeros(1, np.float32)}
  write(directory, tensors=tensors_of(CONFIG) | extra)
  assert error_of(directory).endswith("does not: encoder.layers.10.conv.bias")
  extra["zzz"] = np.zeros(1, np.float32)
  write(directory, tensors=tensors_of(CONFIG) | extra)
  assert error_of(directory).endswith("encoder.layers.10.conv.bias and 1 more")


def test_what_only_training_needs_may_be_missing(directory):
  training = ("embed_avg", "cluster_size", "inited")
  tensors = {k: v for k, v in tensors_of(CONFIG).items() if not k.endswith(training)}
  write(directory, tensors=tensors)
  jaxcodec.load(directory)


def test_a_missing_config_is_named(directory):
  (directory / "config.json").unlink()
  assert "holds no config.json" in error_of(directory)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    (b"{", "cannot be read"),
    (b"", "cannot be read"),
    (b"\xff\xfe\x00", "cannot be read"),
    (b"[" * 100_000, "cannot be read"),
    (b"[]", "not a JSON object"),
    (b"null", "not a JSON object"),
    (b'{"model_type": "bert"}', "model_type 'bert'"),
    (b"{}", "model_type None"),
  ],
)
def test_a_config_that_says_nothing_known_is_named(directory, text, words):
  (directory / "config.json").write_bytes(text)
  assert words in error_of(directory)


@pytest.mark.parametrize(
  ("change", "word"),
  [
    ({"pad_mode": "constant"}, "pad_mode"),
    ({"norm_type": "layer_norm"}, "norm_type"),
    ({"trim_right_ratio": 0.5}, "trim_right_ratio"),
    ({"codebook_dim": 7}, "codebook_dim"),
    ({"num_lstm_layers": 0}, "num_lstm_layers"),
    ({"normalize": True}, "normalize"),
    ({"norm_type": "time_group_norm"}, "time_group_norm"),
    ({"target_bandwidths": []}, "target_bandwidths"),
    ({"target_bandwidths": 24}, "target_bandwidths"),
    ({"target_bandwidths": [0.001]}, "target_bandwidths"),
    ({"target_bandwidths": [1e300]}, "target_bandwidths"),
    ({"target_bandwidths": [math.nan]}, "target_bandwidths"),
    ({"upsampling_ratios": [4, -2]}, "upsampling_ratios"),
    ({"upsampling_ratios": [4, 2.5]}, "upsampling_ratios"),
    ({"upsampling_ratios": "42"}, "upsampling_ratios"),
    ({"upsampling_ratios": [2] * 1000}, "upsampling_ratios"),
    ({"sampling_rate": 10**30}, "sampling_rate"),
    ({"sampling_rate": "8000"}, "sampling_rate"),
    ({"sampling_rate": True}, "sampling_rate"),
    ({"num_filters": 0}, "num_filters"),
    ({"num_filters": None}, "num_filters"),
    ({"num_residual_layers": 10**6}, "encoder.layers.2"),
    ({"codebook_size": 1}, "codebook_size"),
    ({"compress": 1000}, "encoder.layers.1"),
    ({"hidden_size": 10**6}, "encoder.layers.9"),
    ({"chunk_length_s": -1}, "chunk_length_s"),
    ({"chunk_length_s": 0}, "chunk_length_s"),
    ({"chunk_length_s": 1e-9}, "chunk_length_s"),
    ({"chunk_length_s": 1.0, "overlap": 1.5}, "overlap"),
    ({"chunk_length_s": 1.0, "overlap": 0.9}, "overlap"),
    ({"chunk_length_s": 1.0, "overlap": "x"}, "overlap"),
    ({"use_causal_conv": "yes"}, "use_causal_conv"),
  ],
)
def test_a_value_that_is_not_supported_is_named(directory, change, word):
  (directory / "config.json").write_text(json.dumps(CONFIG | change))
  assert word in error_of(directory)


def test_a_pickle_is_not_read(directory):
  (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
  message = error_of(directory)
  assert "no model.safetensors" in message
  assert "pytorch_model.bin is a pickle" in message
  assert "convert it: safetensors.torch.save_file(" in message


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_truncated_file_is_named(directory, kept):
  path = directory / "model.safetensors"
  path.write_bytes(path.read_bytes()[:kept])
  assert "model.safetensors is not a safetensors file" in error_of(directory)


def test_noise_is_not_a_safetensors_file(directory):
  (directory / "model.safetensors").write_bytes(np.random.default_rng(0).bytes(1000))
  assert "is not a safetensors file" in error_of(directory)


def test_half_precision_weights_load_as_float32(directory):
  tensors = tensors_of(CONFIG)
  write(directory, tensors={k: v.astype(np.float16) for k, v in tensors.items()})
  codebooks = jaxcodec.load(directory).params["quantizer"]["codebooks"]
  assert codebooks.dtype == np.float32
  np.testing.assert_allclose(codebooks[0], tensors["quantizer.layers.0.codebook.embed"], rtol=1e-3)


def test_a_name_that_is_nothing_is_repeated_with_what_there_is():
  message = error_of("nothing")
  assert "no codec 'nothing'" in message
  for name in jaxcodec.bundled():
    assert name in message


@pytest.mark.parametrize("name", ["../nothing", "a/b/c", "nothing/", pathlib.Path("no/where")])
def test_a_path_that_is_not_there_is_no_repository(name):
  assert "no codec" in error_of(name)


def test_a_repository_that_is_not_at_hand_offline_is_named(tmp_path, monkeypatch):
  import huggingface_hub.constants

  # Read from the environment when the package is imported, which another test may have done.
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

  def connect(*args, **kwargs):
    raise AssertionError("a network connection")

  monkeypatch.setattr("socket.socket.connect", connect)
  message = error_of("facebook/encodec_24khz")
  assert "facebook/encodec_24khz is not in the local cache" in message
