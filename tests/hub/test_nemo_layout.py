"""NeMo's streaming FastConformer, recorded at random weights: `.nemo` files, and equal answers."""

import io
import pathlib
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from written_archive import Archive

from jaxcodec.audio import recognizer
from jaxcodec.errors import CodecError
from jaxcodec.hub.nemo import load_nemo
from jaxcodec.layers.conformer import LEAD

RECORDED = pathlib.Path(__file__).resolve().parents[1] / "recorded" / "conformer.npz"
CONFIG = """
preprocessor: {features: 80}
encoder:
  att_context_size: [[8, 3], [8, 1]]
  att_context_style: chunked_limited
  conv_norm_type: layer_norm
  causal_downsampling: true
joint: {vocabulary: [a, b, c, d, e, f, "\u2581"]}
"""


@pytest.fixture(scope="module")
def recorded():
  with np.load(RECORDED) as arrays:
    return dict(arrays)


def weights(recorded) -> dict[str, np.ndarray]:
  prefix = "weight/"
  return {name[len(prefix) :]: x for name, x in recorded.items() if name.startswith(prefix)}


def write(path, state, config=CONFIG, kind="w:gz"):
  Archive().write(path.parent / "model_weights.ckpt", state)
  with tarfile.open(path, kind) as tar:
    tar.add(path.parent / "model_weights.ckpt", "./model_weights.ckpt")
    info = tarfile.TarInfo("./model_config.yaml")
    info.size = len(config.encode())
    tar.addfile(info, io.BytesIO(config.encode()))


@pytest.fixture(scope="module")
def loaded(recorded, tmp_path_factory):
  path = tmp_path_factory.mktemp("nemo") / "model.nemo"
  state = weights(recorded) | {"preprocessor.featurizer.window": np.zeros(400, np.float32)}
  write(path, state)
  return load_nemo(path)


def test_sizes_are_read_off_the_weights(loaded):
  c = loaded.module.config
  assert (c.labels, c.channels, c.width, c.num_heads, c.hidden) == (7, 4, 16, 2, 64)
  assert (c.num_layers, c.kernel, c.prediction, c.ctc) == (2, 9, 12, True)
  assert (c.lefts, c.rights) == ((8, 8), (3, 1))
  assert loaded.symbols[-1] == "\u2581"


def test_whole_signals_and_heads_give_theirs(recorded, loaded):
  @jax.jit
  def run(params, mel, lengths, labels):
    bound = loaded.module.bind({"params": params})
    y, there = bound.encode(mel, lengths, 8, 3)
    before = jnp.pad(labels, ((0, 0), (1, 0)), constant_values=-1)
    prediction, _ = bound.predicted(before)
    return y, there, bound.ctc_logits(y), bound.joined(y[:, :, None], prediction[:, None])

  y, there, ctc, joined = run(
    loaded.params, *(recorded[x] for x in ("mel", "lengths")), labels_of(recorded)
  )
  np.testing.assert_array_equal(there.sum(axis=1), recorded["encoded_lengths"])
  there = np.asarray(there)
  for found, wanted in ((y, "encoded"), (ctc, "ctc"), (joined, "joined")):
    np.testing.assert_allclose(
      np.asarray(found)[there], recorded[wanted][there], atol=2e-5, err_msg=wanted
    )


def labels_of(recorded):
  return recorded["labels"].astype(np.int32)


def test_every_step_of_a_stream_and_its_caches_are_theirs(recorded, loaded):
  mel = np.pad(recorded["mel"][:1], ((0, 0), (LEAD, 0), (0, 0)))[:, : 4 * 32]
  params = loaded.params

  @jax.jit
  def run(params, chunks):
    bound = loaded.module.bind({"params": params})

    def step(stream, given):
      chunk, length = given
      y, _, stream = bound.step(chunk, length, stream)
      return stream, (y, stream.past)

    ends = 32 * np.arange(1, 5)[:, None] - LEAD
    return jax.lax.scan(step, bound.init_stream(1, 8), (chunks, ends))[1]

  y, (keys, values, before) = run(params, mel.reshape(4, 1, 32, 80))
  attention = params["layers"]["attention"]
  for i in range(4):
    np.testing.assert_allclose(y[i], recorded[f"step_{i}"], atol=2e-5)
    # They keep what keys and values are made of.
    kept = recorded[f"channel_cache_{i}"]
    filled = int(recorded[f"cache_length_{i}"][0])
    for found, name in ((keys[i], "key"), (values[i], "value")):
      kernel, bias = attention[name]["kernel"], attention[name]["bias"]
      wanted = np.einsum("lbtd,lde->lbte", kept, kernel) + np.asarray(bias)[:, None, None]
      found = np.asarray(found).reshape(wanted.shape)
      np.testing.assert_allclose(found[:, :, 8 - filled :], wanted[:, :, 8 - filled :], atol=2e-5)
    wanted = np.moveaxis(recorded[f"time_cache_{i}"], 2, 3)
    np.testing.assert_allclose(before[i], wanted, atol=2e-5)


def test_speech_comes_out_as_text(loaded):
  x = np.random.default_rng(0).normal(0, 0.1, (1, 9000)).astype(np.float32)
  (text,) = recognizer.transcribe(loaded, x)
  assert set(text) == {"ctc", "transducer"}
  assert set(text["ctc"]) | set(text["transducer"]) <= set("abcdef ")
  with pytest.raises(ValueError, match="context 2 is none of the 2"):
    recognizer.transcribe(loaded, x, context=2)
  with pytest.raises(ValueError, match=r"must be \[batch, samples\]"):
    recognizer.transcribe(loaded, x[0])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda state: state.pop("joint.enc.bias"), "lacks the weight joint.enc.bias"),
    (lambda state: state.update(more=np.zeros(2, np.float32)), "does not: more"),
    (lambda state: state.pop("encoder.pre_encode.out.bias"), "no streaming FastConformer"),
  ],
)
def test_weights_that_do_not_fit_are_refused(recorded, tmp_path, change, message):
  state = weights(recorded)
  change(state)
  write(tmp_path / "m.nemo", state, kind="w")
  with pytest.raises(CodecError, match=message):
    load_nemo(tmp_path / "m.nemo")


def test_files_of_other_kinds_are_refused(recorded, tmp_path):
  path = tmp_path / "m.nemo"
  path.write_bytes(b"no tar")
  with pytest.raises(CodecError, match="is not a"):
    load_nemo(path)
  for config, message in (
    (CONFIG.replace("layer_norm", "batch_norm"), "no streaming FastConformer with layer norms"),
    (CONFIG.replace("e, f", "e"), "names 6 labels for weights of 7"),
    ("encoder: [1]", "does not describe a recognizer"),
  ):
    write(path, weights(recorded), config)
    with pytest.raises(CodecError, match=message):
      load_nemo(path)
