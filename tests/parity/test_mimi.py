"""Mimi against `transformers.MimiModel`, at the size of the published model.

Half a minute goes through a quarter of its filters: in more seconds only the width is new.

Where a signal is no multiple of the hop, the reference is given it filled up with zeros, as
Kyutai's own program does. `transformers` fills up every layer instead, which a stream could not do
without knowing its end; only the last frame differs, and the test says so.
"""

import jax
import numpy as np
import pytest

import jaxcodec

torch = pytest.importorskip("torch", reason="torch comes with the parity extra")
pytest.importorskip("transformers", reason="transformers comes with the parity extra")

import mimi_reference  # noqa: E402 - they import torch.
from reference import count_ties, euclidean, share_used, signal  # noqa: E402

pytestmark = pytest.mark.parity

HOP, RATE = 1920, 24_000
LENGTHS = {
  "1": 1,
  "hop-1": HOP - 1,
  "hop": HOP,
  "hop+1": HOP + 1,
  "3.37 s": 80_880,
  "30 s": 720_000,
}
COUNTS = (1, 2, 8, 32)  # Codes of fewer codebooks are the first of those of more.

encode = jax.jit(jaxcodec.encode, static_argnames="bitrate")
decode = jax.jit(jaxcodec.decode)


def made(directory, **overrides):
  """The reference and the codec that reads its file."""
  model = mimi_reference.make_model(**overrides)
  model.save_pretrained(directory)
  return model, jaxcodec.load(directory)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
  return made(tmp_path_factory.mktemp("mimi"))


def parts_of(model):
  """For each half of the quantizer, its columns of the codes, its projection and its stages."""
  quantizer = model.quantizer
  for columns, part in (
    (slice(0, 1), quantizer.semantic_residual_vector_quantizer),
    (slice(1, None), quantizer.acoustic_residual_vector_quantizer),
  ):
    stages = [euclidean(layer.codebook.embed.double().numpy()) for layer in part.layers]
    yield columns, part.input_proj.weight.detach().numpy()[..., 0], stages


@pytest.mark.parametrize(
  "length", [pytest.param(n, marks=[pytest.mark.slow] * (n == "30 s")) for n in LENGTHS]
)
@torch.no_grad()
def test_codes_and_wave_equal_the_reference(pair, length, tmp_path):
  model, codec = made(tmp_path, num_filters=16) if length == "30 s" else pair
  x = signal(3, 1, LENGTHS[length], RATE, seed=LENGTHS[length])
  filled = np.pad(x, ((0, 0), (0, -x.shape[1] % HOP), (0, 0)))
  raw, whole = (torch.from_numpy(a).transpose(1, 2) for a in (x, filled))
  latents = model.encoder(whole).latents.transpose(1, 2).numpy()
  ties, short = 0, length not in ("3.37 s", "30 s")
  every = np.asarray(encode(codec, x))
  for count in COUNTS:
    # Encoder and decoder have no part that depends on the count: long signals pass through once.
    if short or count == COUNTS[-1]:
      want = model.encode(whole, num_quantizers=count).audio_codes
    else:
      want = model.quantizer.encode(torch.from_numpy(latents).transpose(1, 2), count).transpose(
        0, 1
      )
    codes = want.transpose(1, 2).numpy().astype(np.int32)
    got = every[..., :count]
    if length == "hop":  # Each rate compiles anew.
      got = np.asarray(encode(codec, x, bitrate=codec.bitrates[count - 1]))
    for columns, projection, stages in parts_of(model):
      if codes[..., columns].shape[-1]:
        ties += count_ties(got[..., columns], codes[..., columns], latents @ projection.T, stages)
    if filled.shape != x.shape and (short or count == COUNTS[-1]):
      unfilled = model.encode(raw, num_quantizers=count).audio_codes.transpose(1, 2).numpy()
      assert unfilled.shape == codes.shape
      np.testing.assert_array_equal(unfilled[:, :-1], codes[:, :-1])
    if short or count == COUNTS[-1]:
      wave = model.decode(want).audio_values.transpose(1, 2).numpy()
      difference = np.abs(np.asarray(decode(codec, codes)) - wave).max()
      print(f"{count}: wave of peak {np.abs(wave).max():.2f}, largest difference {difference:.1e}")
      assert difference <= 1e-4
  frames = len(COUNTS) * 3 * codes.shape[1]
  print(f"frames {frames}, of them ties {ties}")
  assert ties <= 1 + 0.005 * frames


@torch.no_grad()
def test_the_reference_uses_its_codebooks(pair):
  """Were a few entries to win always, equal codes would say little."""
  model, _ = pair
  x = torch.from_numpy(signal(4, 1, 20 * RATE, RATE, seed=7)).transpose(1, 2)
  codes = model.encode(x).audio_codes.transpose(1, 2).numpy()
  assert min(share_used(codes, 2048)) >= 0.5


@torch.no_grad()
def test_a_stream_of_single_frames_equals_the_reference(pair):
  model, codec = pair
  x = signal(1, 1, 30 * HOP, RATE, seed=3)
  whole = torch.from_numpy(x).transpose(1, 2)
  latents = model.encoder(whole).latents.transpose(1, 2).numpy()
  want = model.encode(whole).audio_codes
  codes = want.transpose(1, 2).numpy().astype(np.int32)
  state, got, waves = jaxcodec.init_stream(codec), [], []
  step, back = jax.jit(jaxcodec.encode_chunk), jax.jit(jaxcodec.decode_chunk)
  for i in range(30):
    state, part = step(codec, state, x[:, i * HOP : (i + 1) * HOP])
    got.append(part)
    state, y = back(codec, state, codes[:, i : i + 1])
    waves.append(y)
  got = np.concatenate(got, axis=1)
  for columns, projection, stages in parts_of(model):
    assert count_ties(got[..., columns], codes[..., columns], latents @ projection.T, stages) <= 1
  wave = model.decode(want).audio_values.transpose(1, 2).numpy()
  np.testing.assert_allclose(np.concatenate(waves, axis=1), wave, atol=1e-4)
