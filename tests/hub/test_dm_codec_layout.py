"""DM-Codec from a directory as its authors publish it, compared with what their program gave."""

import json

import jax
import numpy as np
import pytest
from drawn_weights import draw_signal
from recorded_neural import recorded, weights, write_checkpoint

import jaxcodec
from jaxcodec.audio.dm_codec import DmCodec
from jaxcodec.training import distillation

CASE = recorded("dm_codec")
CONFIG = json.loads(str(CASE["config"]))
WEIGHTS = weights("dm_codec", 7) | {
  f"quantizer.vq.layers.{i}._codebook.embed": book for i, book in enumerate(CASE["codebooks"])
}


def write(directory, config=CONFIG, arrays=WEIGHTS):
  directory.mkdir(exist_ok=True)
  (directory / "config.json").write_text(json.dumps(config))
  write_checkpoint(directory / "Model_best_dev.pt", arrays)
  return directory


def error_of(directory):
  with pytest.raises(jaxcodec.CodecError) as caught:
    jaxcodec.load(directory)
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  return message


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
  return jaxcodec.load(write(tmp_path_factory.mktemp("dm")))


def test_latents_codes_wave_and_features_are_those_of_the_authors_program(codec):
  assert isinstance(codec.module, DmCodec)
  x = draw_signal(8, 2, 8 * 320 - 9)[..., None]

  @jax.jit
  def run(codec, x):
    apply = lambda method, *args: codec.module.apply({"params": codec.params}, *args, method=method)  # noqa: E731
    z, codes = apply("latents", x), jaxcodec.encode(codec, x)
    taught = [apply("taught", codes, stage) for stage in (0, 2)]
    learnt = [apply("learnt", z, codes, stage) for stage in (0, 2)]
    return z, codes, jaxcodec.decode(codec, codes), taught, learnt

  z, codes, wave, taught, learnt = run(codec, x)
  np.testing.assert_allclose(z, CASE["latents"], atol=2e-6)
  np.testing.assert_array_equal(codes, CASE["codes"])
  assert min(len(np.unique(codes[..., q])) for q in range(4)) > 4
  np.testing.assert_allclose(wave[..., 0], CASE["wave"], atol=1e-5 * np.abs(CASE["wave"]).max())
  for found in (taught, learnt):
    np.testing.assert_allclose(found[0], CASE["first"], atol=1e-5)
    np.testing.assert_allclose(found[1], CASE["third"], atol=1e-5)


def test_losses_are_those_of_the_authors_program():
  teacher, student = draw_signal(31, 2, 7, 12), draw_signal(32, 2, 8, 12)

  @jax.jit
  def run(student, teacher):
    return distillation.by_feature(student, teacher), distillation.by_frame(student, teacher)

  by_feature, by_frame = run(student, teacher)
  np.testing.assert_allclose(by_feature, CASE["by_feature"], rtol=1e-6)
  np.testing.assert_allclose(by_frame, CASE["by_frame"], rtol=1e-6)


def test_rates_are_those_of_the_paper(codec):
  # 50 frames a second; four codes of 5 bits here, eight of 10 as published.
  assert (codec.hop_length, codec.sample_rate) == (320, 16_000)
  assert codec.bitrates == (250, 500, 750, 1000)
  assert not codec.module.encoder_streams
  assert codec.module.decoder_streams


def test_our_own_form_holds_the_same_codec(codec, tmp_path):
  jaxcodec.save(codec, tmp_path / "ours")
  ours = jaxcodec.load(tmp_path / "ours")
  assert ours.module == codec.module
  jax.tree.map(np.testing.assert_array_equal, ours.params, codec.params)


def test_entries_as_wide_as_the_teachers_features_stay_as_they_are(tmp_path):
  rest = {k: v for k, v in WEIGHTS.items() if not k.startswith("transform.")}
  codec = jaxcodec.load(write(tmp_path, CONFIG | {"semantic_dimension": 16}, rest))
  assert "transform" not in codec.params


def test_a_weight_that_is_missing_or_one_too_many_is_named(tmp_path):
  for name in (
    "quantizer.vq.layers.3._codebook.embed",
    "encoder.model.13.lstm.weight_ih_l1_reverse",
    "decoder.model.1.lstm.bias_hh_l0",
    "decoder.model.3.convtr.convtr.weight_v",
    "transform.bias",
  ):
    rest = {k: v for k, v in WEIGHTS.items() if k != name}
    # The last part of a name may be one of two.
    assert f"lacks the weight {name}" in error_of(write(tmp_path / "less", arrays=rest))
  more = WEIGHTS | {"encoder.model.99.bias": np.zeros(1, np.float32)}
  assert "encoder.model.99.bias" in error_of(write(tmp_path / "more", arrays=more))


@pytest.mark.parametrize(
  ("change", "word"),
  [
    ({"bidirectional": False}, "bidirectional"),
    ({"activation": "Snake"}, "activation"),
    ({"strides": []}, "strides"),
    ({"codebook_size": 1}, "codebook_size"),
    ({"n_q": "8"}, "n_q"),
  ],
)
def test_a_configuration_that_is_not_supported_is_named(tmp_path, change, word):
  assert word in error_of(write(tmp_path / "tiny", config=CONFIG | change))
