"""Directories in the Hugging Face layout of Mimi, whole and damaged, written without PyTorch."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxcodec

CONFIG = {
  "model_type": "mimi",
  "sampling_rate": 2400,
  "hidden_size": 4,
  "num_filters": 2,
  "upsampling_ratios": [4, 3],
  "codebook_size": 16,
  "codebook_dim": 3,
  "num_quantizers": 3,
  "num_hidden_layers": 1,
  "intermediate_size": 6,
  "num_attention_heads": 2,
  "sliding_window": 4,
}


def make_tensors():
  """Random arrays under the names and shapes of `transformers.MimiModel`."""
  rng, tensors = np.random.default_rng(0), {}

  def put(name, *shape):
    tensors[name] = rng.normal(size=shape).astype(np.float32)

  def conv(prefix, *shape, features_out):
    put(f"{prefix}.conv.weight", *shape)
    put(f"{prefix}.conv.bias", features_out)

  def residual(prefix, width):
    conv(f"{prefix}.block.1", width // 2, width, 3, features_out=width // 2)
    conv(f"{prefix}.block.3", width, width // 2, 1, features_out=width)

  conv("encoder.layers.0", 2, 1, 7, features_out=2)
  residual("encoder.layers.1", 2)
  conv("encoder.layers.3", 4, 2, 6, features_out=4)
  residual("encoder.layers.4", 4)
  conv("encoder.layers.6", 8, 4, 8, features_out=8)
  conv("encoder.layers.8", 4, 8, 3, features_out=4)
  conv("decoder.layers.0", 8, 4, 7, features_out=8)
  conv("decoder.layers.2", 8, 4, 8, features_out=4)
  residual("decoder.layers.3", 4)
  conv("decoder.layers.5", 4, 2, 6, features_out=2)
  residual("decoder.layers.6", 2)
  conv("decoder.layers.8", 1, 2, 3, features_out=1)
  put("downsample.conv.weight", 4, 4, 4)
  put("upsample.conv.weight", 4, 1, 4)
  for half in ("encoder_transformer", "decoder_transformer"):
    prefix = f"{half}.layers.0."
    for name in "qkvo":
      put(f"{prefix}self_attn.{name}_proj.weight", 4, 4)
    put(f"{prefix}mlp.fc1.weight", 6, 4)
    put(f"{prefix}mlp.fc2.weight", 4, 6)
    for norm in ("input_layernorm", "post_attention_layernorm"):
      put(f"{prefix}{norm}.weight", 4)
      put(f"{prefix}{norm}.bias", 4)
    for scale in ("self_attn_layer_scale", "mlp_layer_scale"):
      put(f"{prefix}{scale}.scale", 4)
  for part, count in (("semantic", 1), ("acoustic", 2)):
    prefix = f"quantizer.{part}_residual_vector_quantizer."
    put(f"{prefix}input_proj.weight", 3, 4, 1)
    put(f"{prefix}output_proj.weight", 4, 3, 1)
    for i in range(count):
      put(f"{prefix}layers.{i}.codebook.embed_sum", 16, 3)
      put(f"{prefix}layers.{i}.codebook.cluster_usage", 16)
      put(f"{prefix}layers.{i}.codebook.initialized", 1)
  return tensors


TENSORS = make_tensors()


def write(directory, config=CONFIG, tensors=TENSORS):
  directory.mkdir(exist_ok=True)
  (directory / "config.json").write_text(json.dumps(config))
  save_file(tensors, directory / "model.safetensors")
  return directory


def error_of(directory):
  with pytest.raises(jaxcodec.CodecError) as caught:
    jaxcodec.load(directory)
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  return message


def test_a_whole_directory_loads_and_is_saved_in_our_own_form(tmp_path):
  codec = jaxcodec.load(write(tmp_path / "tiny"))
  # 100 frames a second of 4 bits a codebook.
  assert codec.bitrates == (400, 800, 1200)
  assert codec.codebook_sizes == (16, 16, 16)
  assert codec.hop_length == 24
  assert codec.causal
  x = np.random.default_rng(1).normal(size=(1, 50, 1)).astype(np.float32)
  codes = jax.jit(jaxcodec.encode)(codec, x)
  assert codes.shape == (1, 3, 3)
  jaxcodec.save(codec, tmp_path / "ours")
  again = jaxcodec.load(tmp_path / "ours")
  assert again.module == codec.module
  jax.tree.map(np.testing.assert_array_equal, again.params, codec.params)


def test_a_codebook_is_the_mean_of_the_vectors_that_chose_an_entry(tmp_path):
  codec = jaxcodec.load(write(tmp_path / "tiny"))
  prefix = "quantizer.acoustic_residual_vector_quantizer.layers.1.codebook."
  usage = np.maximum(TENSORS[prefix + "cluster_usage"], 1e-5)
  want = TENSORS[prefix + "embed_sum"] / usage[:, None]
  got = codec.params["quantizer"]["acoustic"]["codebooks"][1]
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_every_weight_that_is_missing_is_named(tmp_path):
  for i, name in enumerate(TENSORS):
    if not name.endswith("initialized"):
      rest = {k: v for k, v in TENSORS.items() if k != name}
      message = error_of(write(tmp_path / str(i), tensors=rest))
      assert message.endswith(f"lacks the weight {name}")


def test_a_weight_too_many_or_of_another_shape_is_named(tmp_path):
  message = error_of(write(tmp_path / "more", tensors=TENSORS | {"extra": np.zeros(1)}))
  assert "extra" in message
  name = "downsample.conv.weight"
  message = error_of(write(tmp_path / "shape", tensors=TENSORS | {name: np.zeros((4, 4, 5))}))
  assert f"weight {name}" in message
  assert "(4, 4, 5), (4, 4, 4) needed" in message


@pytest.mark.parametrize(
  ("change", "word"),
  [
    ({"use_causal_conv": False}, "use_causal_conv"),
    ({"hidden_act": "relu"}, "hidden_act"),
    ({"upsample_groups": 1}, "upsample_groups"),
    ({"num_key_value_heads": 1}, "num_key_value_heads"),
    ({"num_quantizers": 1}, "num_quantizers"),
    ({"codebook_size": 1}, "codebook_size"),
    ({"num_quantizers": "3"}, "num_quantizers"),
    ({"upsampling_ratios": [4, 2.0]}, "upsampling_ratios"),
    ({"frame_rate": 50}, "frame_rate"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "attention"),
    ({"num_attention_heads": 3}, "attention"),
  ],
)
def test_a_configuration_that_is_not_supported_is_named(tmp_path, change, word):
  assert word in error_of(write(tmp_path / "tiny", config=CONFIG | change))
