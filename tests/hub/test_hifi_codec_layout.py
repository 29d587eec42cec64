"""HiFi-Codec from a directory as AcademiCodec publishes it, compared with what its program gave."""

import json

import jax
import numpy as np
import pytest
from drawn_weights import draw_signal
from recorded_neural import nested, recorded, weights, write_checkpoint
from safetensors.numpy import save_file

import jaxcodec
from jaxcodec.audio.hifi_codec import HiFiCodec

CASE = recorded("hifi_codec")
CONFIG = json.loads(str(CASE["config"]))
WEIGHTS = weights("hifi_codec", 1)


def write(directory, config=CONFIG, arrays=WEIGHTS):
  directory.mkdir(exist_ok=True)
  (directory / "config.json").write_text(json.dumps(config))
  write_checkpoint(directory / "HiFi-Codec-24k-320d", nested(arrays))
  return directory


def error_of(directory):
  with pytest.raises(jaxcodec.CodecError) as caught:
    jaxcodec.load(directory)
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  return message


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
  return jaxcodec.load(write(tmp_path_factory.mktemp("hifi")))


@pytest.mark.slow
def test_latents_codes_and_wave_are_those_of_the_authors_program(codec):
  assert isinstance(codec.module, HiFiCodec)
  x = draw_signal(2, 2, 8 * 320)[..., None]

  @jax.jit
  def run(codec, x):
    apply = lambda method, *args: codec.module.apply({"params": codec.params}, *args, method=method)  # noqa: E731
    z = apply("latents", x)
    codes = jaxcodec.encode(codec, x)
    quantized = apply(lambda module, z: module.quantizer(z), z)
    entries = apply(lambda module, codes: module.quantizer.decode(codes), codes)
    return z, codes, jaxcodec.decode(codec, codes), quantized, entries

  z, codes, wave, quantized, entries = run(codec, x)
  np.testing.assert_allclose(z, CASE["latents"], atol=1e-4)
  np.testing.assert_array_equal(codes, CASE["codes"])
  assert min(len(np.unique(codes[..., q])) for q in range(4)) > 4
  np.testing.assert_array_equal(entries[:, :4], CASE["embedded"])
  np.testing.assert_allclose(wave[..., 0], CASE["wave"], atol=2e-6)
  # The weights of the program's configuration, as it averages the stages too.
  loss = quantized.codebook_loss + 0.25 * quantized.loss
  np.testing.assert_allclose(loss, CASE["loss"], rtol=1e-5)


def test_rates_are_those_of_the_paper(codec):
  # 75 frames a second; four codes of 6 bits here, of 10 as published.
  assert (codec.hop_length, codec.sample_rate, codec.bitrates) == (320, 24_000, (1800,))
  assert codec.codebook_sizes == (64,) * 4
  assert not codec.streams


def test_safetensors_and_our_own_form_hold_the_same_codec(codec, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(CONFIG))
  save_file(WEIGHTS, tmp_path / "model.safetensors")
  again = jaxcodec.load(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, again.params, codec.params)
  jaxcodec.save(codec, tmp_path / "ours")
  ours = jaxcodec.load(tmp_path / "ours")
  assert ours.module == codec.module
  jax.tree.map(np.testing.assert_array_equal, ours.params, codec.params)


def test_a_weight_that_is_missing_or_one_too_many_is_named(tmp_path):
  for name in (
    "quantizer.quantizer_modules2.1.embedding.weight",
    "encoder.normalize.3.bias",
    "generator.resblocks.11.convs2.2.weight_v",
    "encoder.conv_post.bias",
  ):
    rest = {k: v for k, v in WEIGHTS.items() if k != name}
    assert error_of(write(tmp_path / "less", arrays=rest)).endswith(f"lacks the weight {name}")
  more = WEIGHTS | {"generator.extra": np.zeros(1, np.float32)}
  assert "generator.extra" in error_of(write(tmp_path / "more", arrays=more))


@pytest.mark.parametrize(
  ("change", "word"),
  [
    ({"resblock": "2"}, "resblock"),
    ({"upsample_rates": [8, 5, 4]}, "upsample_kernel_sizes"),
    ({"upsample_kernel_sizes": [16, 10, 8, 4]}, "upsample_kernel_sizes"),
    ({"n_code_groups": 3}, "groups"),
    ({"n_codes": "64"}, "n_codes"),
    ({"sampling_rate": 0}, "sampling_rate"),
  ],
)
def test_a_configuration_that_is_not_supported_is_named(tmp_path, change, word):
  assert word in error_of(write(tmp_path / "tiny", config=CONFIG | change))


def test_two_checkpoints_are_one_too_many(tmp_path):
  write(tmp_path)
  write_checkpoint(tmp_path / "g_00100000", nested(WEIGHTS))
  assert "several checkpoints, HiFi-Codec-24k-320d, g_00100000" in error_of(tmp_path)
