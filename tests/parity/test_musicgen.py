"""The language model over codes against MusicGen in `transformers`, from files that it saves."""

import json
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxcodec import functional as F
from jaxcodec.audio.code_lm import CodeLmConfig, sample
from jaxcodec.errors import CodecError
from jaxcodec.hub.code_lm import load_code_lm

torch = pytest.importorskip("torch", reason="torch comes with the parity extra")
transformers = pytest.importorskip("transformers", reason="comes with the parity extra")

pytestmark = pytest.mark.parity

BOOKS, SIZE, FRAMES, TEXT = 4, 30, 9, 24
NET = CodeLmConfig(width=32, num_heads=4, hidden=48, num_layers=3, text_width=TEXT)


@pytest.fixture(scope="module")
def theirs():
  """All three models, of which the codec is as small as it may be."""
  torch.manual_seed(0)
  decoder = transformers.MusicgenDecoderConfig(
    vocab_size=SIZE,
    num_codebooks=BOOKS,
    hidden_size=NET.width,
    num_hidden_layers=NET.num_layers,
    num_attention_heads=NET.num_heads,
    ffn_dim=NET.hidden,
    max_position_embeddings=64,
    pad_token_id=SIZE,
    bos_token_id=SIZE,
    initializer_factor=0.3,
  )
  text = transformers.T5Config(
    vocab_size=50,
    d_model=TEXT,
    d_kv=8,
    d_ff=32,
    num_layers=1,
    num_heads=2,
    is_encoder_decoder=False,
  )
  sound = transformers.EncodecConfig(
    num_filters=2, hidden_size=8, upsampling_ratios=[2], codebook_size=16, num_lstm_layers=1
  )
  config = transformers.MusicgenConfig(text_encoder=text, audio_encoder=sound, decoder=decoder)
  # Made of models instead, its decoder has no kind of attention set, and gives other logits.
  model = transformers.MusicgenForConditionalGeneration(config).eval()
  with torch.no_grad():
    for name, weight in model.named_parameters():
      if "norm" in name:
        weight.add_(0.2 * torch.randn_like(weight))
    model.enc_to_dec_proj.weight.normal_()
    model.enc_to_dec_proj.bias.normal_()
  return model


@pytest.fixture(scope="module")
def directory(theirs, tmp_path_factory):
  path = tmp_path_factory.mktemp("musicgen")
  theirs.save_pretrained(path)
  return path


@pytest.fixture(scope="module")
def ours(directory):
  return load_code_lm(directory)


def described(rows: int = 2, places: int = 5):
  """Features of a text, and which of its places are there: the second row is shorter."""
  x = np.random.default_rng(1).normal(size=(rows, places, TEXT)).astype(np.float32)
  return x, np.arange(places) < np.array([places, 2])[:rows, None]


def codes(rows: int):
  return np.random.default_rng(0).integers(0, SIZE, (rows, FRAMES, BOOKS)).astype(np.int32)


def their_sequence(model, codes, frames):
  """Their ids [B, S, Q] for a prompt of codes; column 0 is the start, -1 is to be written."""
  first = np.full((len(codes), 1, BOOKS), SIZE)
  ids = np.concatenate([first, codes], axis=1)
  ids = torch.tensor(np.moveaxis(ids, 2, 1).reshape(-1, ids.shape[1]))
  _, mask = model.build_delay_pattern_mask(ids, SIZE, max_length=frames + BOOKS)
  return np.moveaxis(mask.numpy().reshape(len(codes), BOOKS, -1), 1, 2)


def test_the_delay_pattern_is_theirs(theirs):
  prompt, frames = codes(2), FRAMES + 5
  sequence = their_sequence(theirs.decoder, prompt, frames)
  padded = np.pad(prompt, ((0, 0), (0, 5), (0, 0)), constant_values=-2)  # To be written.
  ours = np.asarray(F.arranged(padded, F.delay_pattern(frames, BOOKS)))
  np.testing.assert_array_equal(
    np.select([ours == -1, ours == -2], [SIZE, -1], ours), sequence[:, 1:]
  )


def test_logits_are_theirs_with_a_text_and_without(theirs, ours):
  assert ours.module.net == NET
  sequence = their_sequence(theirs.decoder, codes(2), FRAMES)
  ids = torch.tensor(np.moveaxis(sequence[:, :-1], 2, 1).reshape(2 * BOOKS, -1))
  apply = jax.jit(
    lambda params, codes, text, there: ours.module.apply(
      {"params": params}, codes, 0, text, there, method="foretell"
    )
  )
  found = {}
  text, there = described()
  features = (torch.tensor(text),)
  for name in ("with", "without"):
    with torch.no_grad():
      if name == "with":
        given = {
          "encoder_outputs": features,
          "attention_mask": torch.tensor(there, dtype=torch.long),
        }
        wanted = theirs(decoder_input_ids=ids, **given).logits.numpy()
        logits, target = apply(ours.params, codes(2), text, there)
      else:
        wanted = theirs.decoder(input_ids=ids).logits.numpy()
        logits, target = apply(ours.params, codes(2), None, None)
    found[name] = np.asarray(logits)
    wanted = np.moveaxis(wanted.reshape(2, BOOKS, *wanted.shape[1:]), 1, 2)
    assert wanted.std() > 0.1
    np.testing.assert_array_equal(np.where(target < 0, SIZE, target), sequence[:, 1:])
    np.testing.assert_allclose(logits, wanted, atol=1e-5 * np.abs(wanted).max())
  # A row of which no place is there is as one without a text.
  nothing = apply(ours.params, codes(2), text, np.zeros_like(there))[0]
  np.testing.assert_allclose(nothing, found["without"], atol=1e-5)
  assert np.abs(found["with"] - found["without"]).max() > 0.1


@pytest.mark.parametrize("guidance", [None, 3.0])
def test_the_likeliest_codes_after_a_text_are_theirs(theirs, ours, guidance, monkeypatch):
  words = torch.tensor(np.random.default_rng(2).integers(2, 50, (2, 5)))
  there = described()[1]
  mask = torch.tensor(there, dtype=torch.long)
  prompt, frames = codes(2)[:, :3], 6
  # Codes are to come out, not sound.
  monkeypatch.setattr(
    theirs.audio_encoder,
    "decode",
    lambda codes, audio_scales: types.SimpleNamespace(audio_values=codes),
  )
  wanted = theirs.generate(
    input_ids=words,
    attention_mask=mask,
    decoder_input_ids=torch.tensor(np.moveaxis(prompt, 2, 1).reshape(2 * BOOKS, -1)).long(),
    do_sample=False,
    guidance_scale=guidance,
    max_length=3 + frames + BOOKS,
    pad_token_id=SIZE,
    bos_token_id=SIZE,
    decoder_start_token_id=SIZE,
  )
  with torch.no_grad():
    text = theirs.text_encoder(words, attention_mask=mask).last_hidden_state.numpy()
  found = sample(
    ours.module,
    ours.params,
    prompt,
    jax.random.key(0),
    frames=frames,
    temperature=0.0,
    guidance=guidance,
    text=text,
    there=there,
  )
  np.testing.assert_array_equal(np.moveaxis(found, 2, 1), wanted[0])
  assert len(np.unique(found[:, 3:])) > 8


def test_the_decoder_alone_is_read_as_well(theirs, ours, tmp_path):
  theirs.decoder.save_pretrained(tmp_path)
  alone = load_code_lm(tmp_path)
  assert alone.module.net.text_width == NET.width
  assert "text" not in alone.params
  jax.tree.map(
    np.testing.assert_array_equal,
    alone.params,
    {k: v for k, v in ours.params.items() if k != "text"},
  )


@pytest.mark.parametrize(
  ("part", "key", "value"),
  [
    ("decoder", "audio_channels", 2),
    ("decoder", "activation_function", "relu"),
    ("decoder", "num_attention_heads", 5),
    ("decoder", "vocab_size", "30"),
    ("text_encoder", "d_model", None),
  ],
)
def test_what_is_not_supported_is_named(directory, tmp_path, part, key, value):
  config = json.loads((directory / "config.json").read_text())
  config[part][key] = value
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(CodecError, match="heads" if "heads" in key else key):
    load_code_lm(tmp_path)


def test_a_weight_that_is_missing_or_one_too_many_is_named(directory, tmp_path):
  arrays = load_file(directory / "model.safetensors")
  (tmp_path / "config.json").write_text((directory / "config.json").read_text())
  for name in ("decoder.lm_heads.3.weight", "enc_to_dec_proj.bias"):
    save_file({k: v for k, v in arrays.items() if k != name}, tmp_path / "model.safetensors")
    with pytest.raises(CodecError, match=f"lacks the weight {name}"):
      load_code_lm(tmp_path)
  save_file(arrays | {"decoder.more": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
  with pytest.raises(CodecError, match=r"decoder\.more"):
    load_code_lm(tmp_path)
