"""WavTokenizer and Language-Codec from directories as their authors publish them, compared with
what their programs gave."""

import functools
import json

import jax
import numpy as np
import pytest
import yaml
from drawn_weights import draw_signal
from recorded_neural import recorded, weights, write_checkpoint

import jaxcodec
from jaxcodec.audio.language_codec import LanguageCodec
from jaxcodec.audio.wavtokenizer import WavTokenizer

# The class, the seed of its weights, its hop length and its rates.
CASES = {
  "wavtokenizer": (WavTokenizer, 3, 600, (200,)),
  "language_codec": (LanguageCodec, 5, 320, (1125, 1500, 1875)),
}
EVERY = pytest.mark.parametrize("case", CASES)


@functools.cache
def state_dict(case):
  """What the case's checkpoint holds, and some of what lies beside it in a published one."""
  arrays = weights(case, CASES[case][1]) | {
    f"feature_extractor.encodec.quantizer.vq.layers.{i}._codebook.embed": book
    for i, book in enumerate(recorded(case)["codebooks"])
  }
  return arrays | {"multiperioddisc.discriminators.0.convs.0.bias": np.zeros(3, np.float32)}


def write(directory, case, arrays=None, **changes):
  directory.mkdir(exist_ok=True)
  parts = json.loads(str(recorded(case)["config"]))
  for key, value in changes.items():
    part, _, field = key.partition("_")
    parts[part][field] = value
  names = {"features": "feature_extractor", "backbone": "backbone", "head": "head"}
  model = {names[part]: {"init_args": settings} for part, settings in parts.items()}
  text = yaml.safe_dump({"seed_everything": 4444, "model": {"init_args": model}})
  (directory / "run.yaml").write_text(text)
  state = {"epoch": 3, "global_step": 10, "state_dict": arrays or state_dict(case)}
  write_checkpoint(directory / "last.ckpt", state | {"lr_schedulers": [{"last_epoch": 3}]})
  return directory


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
  return {case: jaxcodec.load(write(tmp_path_factory.mktemp(case), case)) for case in CASES}


def error_of(directory):
  with pytest.raises(jaxcodec.CodecError) as caught:
    jaxcodec.load(directory)
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  return message


@pytest.mark.slow
@EVERY
def test_latents_codes_and_wave_are_those_of_the_authors_program(codecs, case):
  codec, want, (cls, seed, hop, rates) = codecs[case], recorded(case), CASES[case]
  assert isinstance(codec.module, cls)
  assert (codec.hop_length, codec.bitrates) == (hop, rates)
  x = draw_signal(seed + 1, 2, 6 * hop - 7)[..., None]

  @jax.jit
  def run(codec, x):
    z = codec.module.apply({"params": codec.params}, x, method="latents")
    codes = jaxcodec.encode(codec, x)
    z_q = codec.module.apply(
      {"params": codec.params}, codes, method=lambda module, codes: module.quantizer.decode(codes)
    )
    return z, codes, z_q, jaxcodec.decode(codec, codes)

  z, codes, z_q, wave = run(codec, x)
  np.testing.assert_allclose(z, want["latents"], atol=2e-6)
  np.testing.assert_array_equal(codes, want["codes"])
  assert min(len(np.unique(codes[..., q])) for q in range(codes.shape[-1])) > 4
  np.testing.assert_allclose(z_q, want["quantized"], atol=1e-6)
  np.testing.assert_allclose(wave[..., 0], want["wave"], atol=1e-5 * np.abs(want["wave"]).max())


@EVERY
def test_our_own_form_holds_the_same_codec(codecs, case, tmp_path):
  jaxcodec.save(codecs[case], tmp_path)
  ours = jaxcodec.load(tmp_path)
  assert ours.module == codecs[case].module
  jax.tree.map(np.testing.assert_array_equal, ours.params, codecs[case].params)


@pytest.mark.parametrize(
  ("case", "name"),
  [
    ("wavtokenizer", "backbone.pos_net.2.proj_out.bias"),
    ("wavtokenizer", "backbone.pos_net.3.norm2.weight"),
    ("wavtokenizer", "feature_extractor.encodec.encoder.model.13.lstm.weight_hh_l1"),
    ("wavtokenizer", "feature_extractor.encodec.quantizer.vq.layers.0._codebook.embed"),
    ("language_codec", "backbone.convnext.1.norm.shift.weight"),
    ("language_codec", "feature_extractor.encodec.quantizer.vq.layers.2._codebook.embed"),
    ("language_codec", "head.out.weight"),
  ],
)
def test_a_weight_that_is_missing_is_named(tmp_path, case, name):
  rest = {k: v for k, v in state_dict(case).items() if k != name}
  assert error_of(write(tmp_path, case, rest)).endswith(f"lacks the weight {name}")


def test_a_weight_too_many_is_named(tmp_path):
  more = state_dict("language_codec") | {"backbone.pos_net.5.bias": np.zeros(1, np.float32)}
  assert "backbone.pos_net.5.bias" in error_of(write(tmp_path, "language_codec", more))


@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"head_hop_length": 320}, "frames of 600 samples"),
    ({"head_n_fft": 1280}, "frames of 600 samples"),
    ({"head_padding": "center"}, "frames of 600 samples"),
    ({"features_num_quantizers": 2}, "num_quantizers"),
    ({"features_dowmsamples": []}, "dowmsamples"),
    ({"backbone_num_layers": "2"}, "num_layers"),
  ],
)
def test_a_configuration_that_is_not_supported_is_named(tmp_path, changes, word):
  assert word in error_of(write(tmp_path, "wavtokenizer", **changes))


@pytest.mark.parametrize("text", ["a: [", "model: 3", "model:\n  init_args: {backbone: {}}", "!!x"])
def test_another_yaml_file_is_refused_in_a_line(tmp_path, text):
  (tmp_path / "other.yaml").write_text(text)
  assert "describes no WavTokenizer or Language-Codec" in error_of(tmp_path)
