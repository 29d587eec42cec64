"""DAC against `transformers.DacModel` and against its authors' own package."""

import functools
import importlib.util

import jax
import numpy as np
import pytest
import safetensors.numpy

import jaxcodec

torch = pytest.importorskip("torch", reason="torch comes with the parity extra")
pytest.importorskip("transformers", reason="transformers comes with the parity extra")

import dac_reference  # noqa: E402 - it imports torch.
from reference import count_ties, share_used, signal  # noqa: E402

pytestmark = pytest.mark.parity


LENGTHS = ("1", "hop-1", "hop", "hop+1", "3.37 s")
# Codebooks for each length: few, some, all.
SHARES = {"1": 0.5, "hop-1": 0.2, "hop": 1.0, "hop+1": 0.0, "3.37 s": 1.0}

encode = jax.jit(jaxcodec.encode, static_argnames="bitrate")
decode = jax.jit(jaxcodec.decode, static_argnames="length")


@functools.cache
def reference_model(name, narrow=False):
  return dac_reference.make_model(name, **(dac_reference.NARROW if narrow else {}))


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
  """From a configuration's name to the reference and the codec that reads its file."""

  @functools.cache
  def make(name, narrow=False):
    directory = tmp_path_factory.mktemp(name)
    reference_model(name, narrow).save_pretrained(directory)
    return reference_model(name, narrow), jaxcodec.load(directory)

  return make


@torch.no_grad()
def reference_encode(model, hop, x, count):
  """The model's codes [B, F, `count`], and what its encoder gave its quantizer: [B, F, D]."""
  latents = []
  hook = model.encoder.register_forward_hook(lambda module, inputs, z: latents.append(z))
  padded = np.pad(x, ((0, 0), (0, -x.shape[1] % hop), (0, 0)))
  answer = model.encode(torch.from_numpy(padded).transpose(1, 2), n_quantizers=count)
  hook.remove()
  codes = answer[1] if isinstance(answer, tuple) else answer.audio_codes
  return codes.transpose(1, 2).numpy().astype(np.int32), latents[0].transpose(1, 2).numpy()


@torch.no_grad()
def reference_decode(model, codes):
  """[B, F, Q] -> [B, F * hop - what odd strides lose, 1]."""
  z = model.quantizer.from_codes(torch.from_numpy(codes).long().transpose(1, 2))[0]
  return model.decoder(z).transpose(1, 2).numpy()


def compare(model, codec, x, count):
  """Fails unless codes and wave are the reference's; gives the number of ties."""
  want, latents = reference_encode(model, codec.hop_length, x, count)
  got = np.asarray(encode(codec, x, bitrate=codec.bitrates[count - 1]))
  assert got.shape == (len(x), -(-x.shape[1] // codec.hop_length), count)
  ties = count_ties(got, want, latents, dac_reference.stages_of(model))
  print(f"frames {got[..., 0].size}, of them ties {ties}")  # `pytest -rP` shows it.
  assert ties <= 1 + 0.005 * got[..., 0].size
  # Codes of -1 add nothing, and with them one compilation serves every count.
  left_out = len(codec.codebook_sizes) - count
  every = np.pad(want, ((0, 0), (0, 0), (0, left_out)), constant_values=-1)
  wave, theirs = np.asarray(decode(codec, every)), reference_decode(model, want)
  assert (
    wave.shape[1] == got.shape[1] * codec.hop_length == theirs.shape[1] + codec.module.net.missing
  )
  difference = np.abs(wave[:, : theirs.shape[1]] - theirs).max()
  print(f"wave of peak {np.abs(theirs).max():.2f}, largest difference {difference:.1e}")
  assert difference <= 1e-4
  assert not wave[:, theirs.shape[1] :].any()
  exact = jax.eval_shape(functools.partial(jaxcodec.decode, length=x.shape[1]), codec, got)
  assert exact.shape == x.shape


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", dac_reference.CONFIGS)
def test_codes_and_wave_equal_those_of_transformers(pair, name, length):
  # At the last length one of them at full width: in more seconds only the width is new.
  model, codec = pair(name, narrow=length == "3.37 s" and name != "24khz")
  hop = codec.hop_length
  named = {"1": 1, "hop-1": hop - 1, "hop": hop, "hop+1": hop + 1}
  num_samples = named.get(length) or round(3.37 * codec.sample_rate)
  x = signal(3, 1, num_samples, codec.sample_rate, seed=LENGTHS.index(length))
  compare(model, codec, x, max(1, round(SHARES[length] * len(codec.codebook_sizes))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["24khz", "44khz"])  # 16 kHz has the network of 24 kHz.
def test_codes_and_wave_of_half_a_minute_equal_those_of_transformers(pair, name):
  """An eighth as wide: at full width these are minutes, in which only the width is new."""
  model, codec = pair(name, narrow=True)
  x = signal(3, 1, 30 * codec.sample_rate, codec.sample_rate, seed=9)
  compare(model, codec, x, len(codec.codebook_sizes))


@pytest.mark.parametrize("name", dac_reference.CONFIGS)
def test_the_reference_uses_its_codebooks(pair, name):
  """Were a few entries to win always, equal codes would say little."""
  model, codec = pair(name)
  x = signal(4, 1, codec.sample_rate, codec.sample_rate, seed=7)
  codes, _ = reference_encode(model, codec.hop_length, x, len(codec.codebook_sizes))
  assert min(share_used(codes, codec.codebook_sizes[0])) >= 0.5


TINY = {
  "encoder_hidden_size": 4,
  "decoder_hidden_size": 32,
  "downsampling_ratios": [4, 5],
  "n_codebooks": 3,
  "codebook_size": 16,
  "codebook_dim": 4,
}


def test_all_three_ways_to_store_a_kernel_give_the_same_params(tmp_path):
  model = dac_reference.make_model("24khz", **TINY)
  model.save_pretrained(tmp_path / "folded")
  model.apply_weight_norm()
  model.save_pretrained(tmp_path / "new")
  tensors = safetensors.numpy.load_file(tmp_path / "new" / "model.safetensors")
  model.config.save_pretrained(tmp_path / "old")
  renamed = {
    key.replace("parametrizations.weight.original0", "weight_g").replace(
      "parametrizations.weight.original1", "weight_v"
    ): value
    for key, value in tensors.items()
  }
  assert renamed.keys() != tensors.keys()
  safetensors.numpy.save_file(renamed, tmp_path / "old" / "model.safetensors")
  folded, new, old = (jaxcodec.load(tmp_path / kind) for kind in ("folded", "new", "old"))
  assert jax.tree.structure(new.params) == jax.tree.structure(folded.params)
  jax.tree.map(np.testing.assert_array_equal, new.params, old.params)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
  jax.tree.map(close, new.params, folded.params)
  compare(model, new, signal(2, 1, 1001, 24_000, seed=3), 3)


@pytest.mark.parametrize("rates", [[2, 4, 5], [4, 8, 8]])
def test_codes_and_wave_equal_those_of_the_original_package(tmp_path, rates):
  if importlib.util.find_spec("dac") is None:
    pytest.skip("descript-audio-codec is not installed")
  model = dac_reference.make_original(
    encoder_dim=8,
    encoder_rates=rates,
    decoder_dim=128,
    decoder_rates=rates[::-1],
    n_codebooks=4,
    codebook_size=64,
    sample_rate=16_000,
  )
  model.save(tmp_path / "weights.pth", package=False)
  codec = jaxcodec.load(tmp_path)
  assert codec.name == tmp_path.name
  assert codec.module == jaxcodec.load(tmp_path / "weights.pth").module
  assert codec.sample_rate == 16_000
  for count, num_samples in ((4, 20_001), (1, codec.hop_length)):
    compare(model, codec, signal(3, 1, num_samples, 16_000, seed=count), count)


def test_weights_are_drawn_as_the_original_package_has_them(tmp_path):
  if importlib.util.find_spec("dac") is None:
    pytest.skip("descript-audio-codec is not installed")
  model = dac_reference.draw_original(
    encoder_dim=16, encoder_rates=[2, 4], decoder_dim=64, decoder_rates=[4, 2], codebook_size=256
  )
  with torch.no_grad():
    model(torch.zeros(1, 1, 80))  # Before its first call its weights are others.
  model.save(tmp_path / "weights.pth", package=False)
  codec = jaxcodec.load(tmp_path)
  drawn = codec.module.init(jax.random.key(0), np.zeros((1, 80, 1), np.float32))["params"]

  def same_spread(path, ours, theirs):
    assert ours.shape == theirs.shape
    if ours.size >= 500:
      np.testing.assert_allclose(np.std(ours), np.std(theirs), rtol=0.1, err_msg=str(path))
      np.testing.assert_allclose(np.abs(ours).max(), np.abs(theirs).max(), rtol=0.2)

  jax.tree_util.tree_map_with_path(same_spread, drawn, codec.params)


def test_losses_and_their_gradients_equal_those_of_the_original_package(tmp_path):
  if importlib.util.find_spec("dac") is None:
    pytest.skip("descript-audio-codec is not installed")
  model = dac_reference.make_original(
    encoder_dim=8, encoder_rates=[2, 4], decoder_dim=16, decoder_rates=[4, 2], codebook_size=64
  )
  model.save(tmp_path / "weights.pth", package=False)
  codec = jaxcodec.load(tmp_path)
  x = torch.from_numpy(signal(3, 1, 800, 44_100, seed=1)).transpose(1, 2)
  z = model.encoder(x).detach().requires_grad_()
  weight = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
  z_q, _, _, commitment, codebook = model.quantizer(z)
  (0.25 * commitment + codebook + (weight * z_q).mean()).backward()
  quantizer = codec.module.bind({"params": codec.params}).quantizer.clone(parent=None)
  swap = lambda a: a.detach().transpose(1, 2).numpy()  # noqa: E731

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss(z):
    out = quantizer.apply({"params": codec.params["quantizer"]}, z)
    return 0.25 * out.loss + out.codebook_loss + (swap(weight) * out.z).mean(), out

  (_, out), gradient = loss(swap(z))
  np.testing.assert_allclose(out.loss, commitment.item(), rtol=1e-6)
  np.testing.assert_allclose(out.codebook_loss, codebook.item(), rtol=1e-6)
  np.testing.assert_allclose(out.z, swap(z_q), atol=1e-5)
  np.testing.assert_allclose(gradient, swap(z.grad), rtol=1e-4, atol=1e-8)
