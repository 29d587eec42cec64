"""EnCodec against `transformers.EncodecModel`, at the sizes of the published models."""

import functools

import jax
import numpy as np
import pytest
import safetensors.numpy

import jaxcodec

torch = pytest.importorskip("torch", reason="torch comes with the parity extra")
pytest.importorskip("transformers", reason="transformers comes with the parity extra")

import encodec_reference  # noqa: E402 - it imports torch.
from reference import count_ties, euclidean, share_used, signal  # noqa: E402

LENGTHS = ("1", "hop-1", "hop", "hop+1")
BANDWIDTHS = {
  "24khz": (1.5, 3.0, 6.0, 12.0, 24.0),
  "32khz": (2.2,),
  "48khz": (3.0, 6.0, 12.0, 24.0),
}

pytestmark = pytest.mark.parity
EACH = pytest.mark.parametrize("name", BANDWIDTHS)

encode = jax.jit(jaxcodec.encode, static_argnames="bitrate")
decode = jax.jit(jaxcodec.decode)


@functools.cache
def reference_model(name, **overrides):
  return encodec_reference.make_model(name, **overrides)


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
  """From a configuration's name to the reference and the codec that reads its file."""

  @functools.cache
  def make(name, **overrides):
    directory = tmp_path_factory.mktemp(name)
    model = reference_model(name, **overrides)
    model.save_pretrained(directory)
    return model, jaxcodec.load(directory)

  return make


@torch.no_grad()
def reference_encode(model, x, bandwidth):
  """The model's own answer, and what its encoder gave its quantizer meanwhile: [B, F, D]."""
  latents = []
  hook = model.encoder.register_forward_hook(lambda module, inputs, z: latents.append(z))
  answer = model.encode(torch.from_numpy(x).transpose(1, 2), bandwidth=bandwidth)
  hook.remove()
  return answer, torch.cat(latents, dim=2).transpose(1, 2).numpy()


def as_ours(answer):
  """Codes [B, F, Q] and scales [B, S] of the reference's [S, B, Q, F], without its padding."""
  codes = answer.audio_codes.permute(1, 0, 3, 2).flatten(1, 2)
  codes = codes[:, : codes.shape[1] - answer.last_frame_pad_length].numpy().astype(np.int32)
  if answer.audio_scales[0] is None:
    return codes
  return jaxcodec.ScaledCodes(codes, torch.cat(answer.audio_scales, dim=1).numpy())


def stages_of(model):
  return [euclidean(layer.codebook.embed.double().numpy()) for layer in model.quantizer.layers]


@pytest.mark.parametrize("length", LENGTHS)
@EACH
def test_codes_scales_and_wave_equal_the_reference(pair, name, length):
  model, codec = pair(name)
  hop = model.config.hop_length
  num_samples = {"1": 1, "hop-1": hop - 1, "hop": hop, "hop+1": hop + 1}[length]
  x = signal(3, codec.channels, num_samples, codec.sample_rate, LENGTHS.index(length))
  every = encode(codec, x)
  for bandwidth in BANDWIDTHS[name]:
    answer, latents = reference_encode(model, x, bandwidth)
    want, got = as_ours(answer), every
    if length == "hop":  # Each bandwidth compiles anew, and its codes are the first of all.
      got = encode(codec, x, bitrate=round(1000 * bandwidth))
    if codec.module.scaled:
      np.testing.assert_allclose(got.scales, want.scales, rtol=1e-6)
    ours, theirs = (np.asarray(c.codes if codec.module.scaled else c) for c in (got, want))
    if length != "hop":
      ours = ours[..., : theirs.shape[-1]]
    assert ours.shape[1] == codec.module.num_frames(num_samples)
    ties = count_ties(ours, theirs, latents, stages_of(model))
    print(f"{bandwidth}: frames {ours[..., 0].size}, of them ties {ties}")  # `pytest -rP` shows it.
    assert ties <= 1 + 0.005 * ours[..., 0].size
    compare_waves(model, codec, answer, want)
  exact = jax.eval_shape(functools.partial(jaxcodec.decode, length=num_samples), codec, every)
  assert exact.shape == x.shape


@torch.no_grad()
def compare_waves(model, codec, answer, want):
  wave = model.decode(
    answer.audio_codes,
    answer.audio_scales,
    last_frame_pad_length=answer.last_frame_pad_length,
  ).audio_values
  wave = wave.transpose(1, 2).numpy()
  codes = want.codes if codec.module.scaled else want
  # Codes of -1 add nothing, and with them one compilation serves every bandwidth.
  left_out = len(codec.codebook_sizes) - codes.shape[-1]
  codes = np.pad(codes, ((0, 0), (0, 0), (0, left_out)), constant_values=-1)
  codes = want._replace(codes=codes) if codec.module.scaled else codes
  difference = np.abs(np.asarray(decode(codec, codes)) - wave).max()
  print(f"wave of peak {np.abs(wave).max():.2f}, largest difference {difference:.1e}")
  assert difference <= 1e-4


@pytest.mark.parametrize("seconds", [3.37, pytest.param(30, marks=pytest.mark.slow)])
@EACH
def test_codes_scales_and_wave_of_longer_signals_equal_the_reference(pair, name, seconds):
  """Of every bandwidth the codes; encoder and decoder have no part that depends on it.

  Half a minute at full width for one of them: in more seconds only the width is new.
  """
  narrow = {"num_filters": 8} if seconds == 30 and name != "24khz" else {}
  model, codec = pair(name, **narrow)
  num_samples = round(seconds * codec.sample_rate)
  x = signal(3, codec.channels, num_samples, codec.sample_rate, seed=9)
  answer, latents = reference_encode(model, x, model.config.target_bandwidths[-1])
  want, got = as_ours(answer), encode(codec, x)
  if codec.module.scaled:
    np.testing.assert_allclose(got.scales, want.scales, rtol=1e-6)
  every = np.asarray(got.codes if codec.module.scaled else got)
  assert every.shape[1] == codec.module.num_frames(num_samples)
  latents = latents[:, : every.shape[1]]  # Without what pads the last segment.
  for bandwidth in model.config.target_bandwidths:
    with torch.no_grad():
      codes = model.quantizer.encode(torch.from_numpy(latents).transpose(1, 2), bandwidth)
    codes = codes.permute(1, 2, 0).numpy().astype(np.int32)
    ties = count_ties(every[..., : codes.shape[-1]], codes, latents, stages_of(model))
    print(f"{bandwidth} kbit/s: frames {every[..., 0].size}, of them ties {ties}")
    assert ties <= 1 + 0.005 * every[..., 0].size
  compare_waves(model, codec, answer, want)


def test_codes_of_a_last_segment_within_the_overlap_equal_the_reference(pair):
  """Of such a signal the reference decodes nothing: it raises, as its segments have other sizes."""
  model, codec = pair("48khz")
  x = signal(1, 2, 47_520 + 300, 48_000, seed=5)
  answer, latents = reference_encode(model, x, 3.0)
  want, got = as_ours(answer), encode(codec, x, bitrate=3000)
  np.testing.assert_allclose(got.scales, want.scales, rtol=1e-6)
  assert count_ties(np.asarray(got.codes), want.codes, latents, stages_of(model)) <= 1
  assert decode(codec, got).shape == (1, 47_520 + 320, 2)


@EACH
def test_the_reference_uses_its_codebooks(pair, name):
  """Were a few entries to win always, equal codes would say little."""
  model, codec = pair(name)
  x = signal(6, codec.channels, 3 * codec.sample_rate, codec.sample_rate, seed=7)
  codes = as_ours(reference_encode(model, x, model.config.target_bandwidths[-1])[0])
  codes = codes.codes if codec.module.scaled else codes
  assert min(share_used(codes, codec.codebook_sizes[0])) >= 0.5


TINY = {
  "num_filters": 4,
  "hidden_size": 8,
  "codebook_size": 16,
  "upsampling_ratios": [5, 4],
  "target_bandwidths": [9.6],
}


@pytest.mark.parametrize("overrides", [{}, {"use_causal_conv": False, "use_conv_shortcut": False}])
def test_old_and_new_names_of_weight_norm_give_the_same_params(tmp_path, overrides):
  model = encodec_reference.make_model("24khz", **TINY, **overrides)
  model.save_pretrained(tmp_path / "new")
  model.config.save_pretrained(tmp_path / "old")
  tensors = safetensors.numpy.load_file(tmp_path / "new" / "model.safetensors")
  # Whichever of the two names this version of transformers writes.
  for directory, g, v in (
    ("new", "parametrizations.weight.original0", "parametrizations.weight.original1"),
    ("old", "weight_g", "weight_v"),
  ):
    renamed = {
      key.replace("parametrizations.weight.original0", g)
      .replace("parametrizations.weight.original1", v)
      .replace("weight_g", g)
      .replace("weight_v", v): value
      for key, value in tensors.items()
    }
    assert any(key.endswith(v) for key in renamed)
    safetensors.numpy.save_file(renamed, tmp_path / directory / "model.safetensors")
  new, old = (jaxcodec.load(tmp_path / directory) for directory in ("new", "old"))
  assert jax.tree.structure(new.params) == jax.tree.structure(old.params)
  jax.tree.map(np.testing.assert_array_equal, new.params, old.params)
  # The folded kernel is what the reference convolves with.
  np.testing.assert_allclose(
    new.params["encoder"]["conv_in"]["kernel"],
    model.encoder.layers[0].conv.weight.detach().numpy().transpose(2, 1, 0),
    rtol=1e-6,
  )
  x = signal(2, 1, 1001, 24_000, seed=3)
  answer, latents = reference_encode(model, x, 9.6)
  got = np.asarray(jaxcodec.encode(new, x))
  assert count_ties(got, as_ours(answer), latents, stages_of(model)) <= 1
