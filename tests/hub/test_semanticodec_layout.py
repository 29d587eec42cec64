"""SemantiCodec from a directory as its authors publish it, beside what their program gave."""

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest
from drawn_weights import draw_signal, draw_sound
from recorded_neural import write_checkpoint

import jaxcodec
from jaxcodec import functional as F
from jaxcodec.audio.semanticodec import SemantiCodec
from jaxcodec.decoders import latent_diffusion
from jaxcodec.encoders import mae
from jaxcodec.functional.log_mel import kaldi_log_mel
from jaxcodec.hub.semanticodec import load_semanticodec

_FILE = pathlib.Path(__file__).parents[1] / "recorded" / "semanticodec.npz"
HEADS = 8, 8  # Features of the small networks' heads.


@functools.cache
def recorded(case):
  with np.load(_FILE) as file:
    return {n.split("/")[1]: file[n] for n in file.files if n.startswith(f"{case}/")}


@functools.cache
def encoder_weights(stack):
  case = recorded(f"encoder{stack}")
  arrays = draw_sound(json.loads(str(case["shapes"])), 10 + stack)
  fixed = {"audiomae.model.pos_embed": case["positions"][None]}
  arrays = {name: np.asarray(array) for name, array in arrays.items()}
  return arrays | fixed | {"quantizer._codebook.embed": case["entries"][None]}


@functools.cache
def decoder_weights():
  arrays = draw_sound(json.loads(str(recorded("decoder")["shapes"])), 30)
  # Numbers without axes too are arrays.
  return {k: np.asarray(v) for k, v in arrays.items()} | {"scale_factor": np.array(0.7, "float32")}


def write(directory, stack=2, encoder=None, decoder=None, codebooks=1):
  directory.mkdir(exist_ok=True)
  write_checkpoint(directory / "encoder.ckpt", encoder or encoder_weights(stack))
  write_checkpoint(directory / "decoder.ckpt", decoder or decoder_weights())
  for i in range(codebooks):
    folder = directory / "codebook_idx" / f"combine_{i}"
    folder.mkdir(parents=True, exist_ok=True)
    # Named, as there, by another number than it has entries.
    np.save(folder / "codebook_6_0.npy", recorded(f"encoder{stack}")["centroids"])
  return directory


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
  return load_semanticodec(write(tmp_path_factory.mktemp("two")), "two", heads=HEADS)


def spectrograms():
  mel = 2 * draw_signal(7, 2, 256, 32)
  mel[1, 130:] = -1.277
  return mel


def applied(codec, method, *args):
  run = lambda params, *args: codec.module.apply({"params": params}, *args, method=method)  # noqa: E731
  return jax.tree.map(np.asarray, jax.jit(run)(codec.params, *args))


@pytest.mark.parametrize(
  "stack", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_tokens_and_condition_are_those_of_the_authors_program(stack, codec, tmp_path):
  case = recorded(f"encoder{stack}")
  if stack != 2:
    # The decoder stays that of two patches a token: its context's width is not looked at.
    codec = load_semanticodec(write(tmp_path / "other", stack), "other", heads=HEADS)

  def run(module, mel):
    features, end = module.stacked(mel), module.end(mel)
    codes = module.quantizer.encode(features, end)
    return features, codes, module.quantizer(features, end)[0], module.quantizer.decode(codes)

  features, codes, condition, entries = applied(codec, run, spectrograms())
  np.testing.assert_allclose(features[:, ::3, ::5], case["features"], atol=2e-5)
  np.testing.assert_array_equal(codes, case["tokens"])
  assert min(len(np.unique(codes[..., i])) for i in range(2)) >= 8
  # What silence follows is marked, in training as by the program, and has codes all the same.
  places = F.sinusoids(codes.shape[1], 192)
  context = np.concatenate([condition, np.stack([places] * 2)], axis=-1)
  np.testing.assert_allclose(context[:, ::2, ::7], case["context"], atol=1e-5)
  assert (condition[1, -1] == -1).all()
  np.testing.assert_allclose(entries[:1, :, ::9], case["condition"], atol=1e-6)


@pytest.mark.slow
def test_sampler_spectrum_and_wave_are_those_of_the_authors_program(codec):
  case, config = recorded("decoder"), codec.module.diffusion
  np.testing.assert_allclose(latent_diffusion.shares(), case["shares"], rtol=1e-5)
  noises = draw_signal(32, 5, 2, 4, 128, 8) * np.float32(12**0.5)
  condition = 4 * draw_signal(31, 2, 16, 128)
  condition[1, 11:] = -1
  small = codec.module.clone(diffusion=dataclasses.replace(config, num_steps=4))

  def run(module, noises, condition):
    decoder = module.decoder
    latents = decoder.sample(condition, noises)
    return latents, decoder.mel(latents), decoder.wave(decoder.mel(latents))

  noises = noises.transpose(0, 1, 3, 4, 2)
  latents, mel, wave = applied(
    jaxcodec.Codec(module=small, params=codec.params, prior=codec.prior, name="small"),
    run,
    noises,
    condition,
  )
  # The program's latents are before the scale.
  np.testing.assert_allclose(0.7 * latents[:, ::3], case["latents"], atol=1e-4)
  np.testing.assert_allclose(mel[:, ::3], case["mel"], atol=1e-4)
  # The program's first layer gives a step too many, so its end sees one more than ours.
  assert wave.shape == (2, 40_960, 1)
  ours, theirs = wave[:, ::7, 0], case["wave"]
  end = 40_960 // 7 - 2 * 160
  assert theirs.std() > 0.01
  np.testing.assert_allclose(ours[:, :end], theirs[:, :end], atol=1e-5)


def test_features_are_kaldis():
  case = recorded("features")["mel"]
  x = draw_signal(50, 1, 32_000)
  x[:, 16_000:] = 0
  mel = np.asarray(jax.jit(lambda x: kaldi_log_mel(x)[0])(x))[0]
  assert mel.shape == (198, 128)
  np.testing.assert_allclose(mel[::3], case, atol=1e-3)
  assert np.ptp(mel[100:]) == 0


def test_positions_windows_and_fades_are_those_of_the_authors_program(codec):
  case = recorded("helpers")
  np.testing.assert_allclose(
    mae.positions((16, 2), 32), recorded("encoder1")["positions"], atol=1e-6
  )
  published = SemantiCodec(
    sample_rate=16_000, bitrates=(1350,), num_codebooks=2, codebook_size=8192, semantic_size=16_384
  )
  size, stride = published.window_frames, published.window_stride
  assert (size, stride, published.hop_length, published.window_length) == (512, 480, 320, 163_840)
  for length, windows in json.loads(str(case["windows"])).items():
    count = published.num_windows(int(length))
    found = [[i * stride, min(size, int(length) - i * stride)] for i in range(count)]
    assert found == windows
  waves = np.stack([draw_signal(40 + i, 4000) for i in range(3)])[None, ..., None]
  joined = jax.jit(F.cross_fade, static_argnums=1)(waves, 4000 - 250)
  np.testing.assert_allclose(joined[0, :, 0], case["joined"], atol=1e-6)


def test_the_rate_is_of_the_rows_that_the_codebook_has(codec):
  # 12 centroids and 10 entries: 6.9 bits, and 16 pairs in 2.56 s.
  assert codec.codebook_sizes == (12, 10)
  assert codec.bitrates == (44,)
  assert codec.module.hop_length == 2560


def error_of(directory, **parts):
  with pytest.raises(jaxcodec.CodecError) as caught:
    jaxcodec.load(write(directory, **parts))
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  return message


def test_a_weight_that_is_missing_or_one_too_many_is_named(tmp_path):
  without = lambda arrays, name: {k: v for k, v in arrays.items() if k != name}  # noqa: E731
  encoder, decoder = encoder_weights(2), decoder_weights()
  for name in ("encoder.weight_hh_l1_reverse", "audiomae.model.blocks.7.mlp.fc2.bias"):
    assert error_of(tmp_path / "a", encoder=without(encoder, name)).endswith(f"weight {name}")
  for name in (
    "first_stage_model.decoder.mid.attn_1.q.bias",
    "first_stage_model.vocoder.resblocks.14.convs2.2.bias",
    "model.diffusion_model.output_blocks.1.3.conv.weight",
    "scale_factor",
  ):
    assert error_of(tmp_path / "a", decoder=without(decoder, name)).endswith(f"weight {name}")
  more = decoder | {"model.diffusion_model.extra": np.zeros(1, np.float32)}
  assert "model.diffusion_model.extra" in error_of(tmp_path / "a", decoder=more)


def test_two_codebooks_are_one_too_many(tmp_path):
  assert "leave one" in error_of(tmp_path / "b", codebooks=2)
