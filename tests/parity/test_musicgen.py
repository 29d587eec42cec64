"""The language model over codes against MusicGen's decoder in `transformers`, at random weights."""

import jax
import numpy as np
import pytest

from jaxcodec import functional as F
from jaxcodec.audio.code_lm import CodeLm, CodeLmConfig

torch = pytest.importorskip("torch", reason="torch comes with the parity extra")
transformers = pytest.importorskip("transformers", reason="comes with the parity extra")

pytestmark = pytest.mark.parity

BOOKS, SIZE, FRAMES = 4, 30, 9
NET = CodeLmConfig(width=32, num_heads=4, hidden=48, num_layers=3)


@pytest.fixture(scope="module")
def theirs():
  torch.manual_seed(0)
  config = transformers.MusicgenDecoderConfig(
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
  model = transformers.MusicgenForCausalLM(config).eval()
  with torch.no_grad():
    for name, weight in model.named_parameters():
      if "norm" in name:
        weight.add_(0.2 * torch.randn_like(weight))
  return model


def copied(model):
  """Their weights under our names."""
  weights = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
  layers = [f"model.decoder.layers.{i}." for i in range(NET.num_layers)]

  def stacked(name):
    return np.stack([weights[f"{layer}{name}.weight"].T for layer in layers])

  def norm(name):
    bias = np.stack([weights[f"{layer}{name}.bias"] for layer in layers])
    return {"scale": stacked(name), "bias": bias}

  kernels = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "up": "fc1",
    "down": "fc2",
  }
  heads = [weights[f"lm_heads.{q}.weight"].T for q in range(BOOKS)]
  last = "model.decoder.layer_norm"
  tables = [weights[f"model.decoder.embed_tokens.{q}.weight"] for q in range(BOOKS)]
  return {
    "tables": np.stack(tables),
    "layers": {ours: {"kernel": stacked(name)} for ours, name in kernels.items()}
    | {
      "attention_norm": norm("self_attn_layer_norm"),
      "feed_forward_norm": norm("final_layer_norm"),
    },
    "norm": {"scale": weights[f"{last}.weight"], "bias": weights[f"{last}.bias"]},
    "head": {"kernel": np.concatenate(heads, axis=1)},
  }


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
  sequence = their_sequence(theirs, prompt, frames)
  padded = np.pad(prompt, ((0, 0), (0, 5), (0, 0)), constant_values=-2)  # To be written.
  ours = np.asarray(F.arranged(padded, F.delay_pattern(frames, BOOKS)))
  np.testing.assert_array_equal(
    np.select([ours == -1, ours == -2], [SIZE, -1], ours), sequence[:, 1:]
  )


def test_logits_are_theirs(theirs):
  sequence = their_sequence(theirs, codes(2), FRAMES)
  ids = torch.tensor(np.moveaxis(sequence[:, :-1], 2, 1).reshape(2 * BOOKS, -1))
  with torch.no_grad():
    wanted = theirs(input_ids=ids).logits.numpy()
  wanted = np.moveaxis(wanted.reshape(2, BOOKS, *wanted.shape[1:]), 1, 2)
  model = CodeLm(net=NET, num_codebooks=BOOKS, codebook_size=SIZE, pattern="delay")
  apply = jax.jit(lambda params, codes: model.apply({"params": params}, codes, method="foretell"))
  logits, target = apply(copied(theirs), codes(2))
  assert wanted.std() > 0.1
  np.testing.assert_array_equal(np.where(target < 0, SIZE, target), sequence[:, 1:])
  np.testing.assert_allclose(logits, wanted, atol=1e-5 * np.abs(wanted).max())
