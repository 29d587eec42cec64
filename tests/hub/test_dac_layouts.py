"""DAC checkpoints in both layouts, whole and damaged, written without PyTorch."""

import json
import zipfile

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors.numpy import save_file
from written_archive import Archive

import jaxcodec
from jaxcodec.hub.torch_archive import read_torch

CONFIG = {
  "model_type": "dac",
  "encoder_hidden_size": 2,
  "decoder_hidden_size": 8,
  "downsampling_ratios": [2, 3],
  "hidden_size": 8,
  "n_codebooks": 2,
  "codebook_size": 16,
  "codebook_dim": 4,
  "sampling_rate": 6000,
}
KWARGS = {
  "encoder_dim": 2,
  "encoder_rates": [2, 3],
  "latent_dim": 8,
  "decoder_dim": 8,
  "decoder_rates": [3, 2],
  "n_codebooks": 2,
  "codebook_size": 16,
  "codebook_dim": 4,
  "quantizer_dropout": False,
  "sample_rate": 6000,
}


def tensors_of(layout):
  """Random arrays under the names of `transformers.DacModel` or of `dac.DAC`.

  Layer by layer in one order, so that both layouts get the same numbers.
  """
  rng, tensors, original = np.random.default_rng(0), {}, layout == "original"

  def put(name, *shape):
    tensors[name] = rng.normal(size=shape).astype(np.float32)

  def conv(theirs, name, features_in, features_out, taps, transposed=False):
    prefix = name if original else theirs
    shape = (features_in, features_out) if transposed else (features_out, features_in)
    put(f"{prefix}.bias", features_out)
    put(f"{prefix}.weight_g", shape[0], 1, 1)
    put(f"{prefix}.weight_v", *shape, taps)

  def snake(theirs, name, width):
    put(f"{name if original else theirs}.alpha", 1, width, 1)

  def unit(theirs, name, width):
    snake(f"{theirs}.snake1", f"{name}.block.0", width)
    conv(f"{theirs}.conv1", f"{name}.block.1", width, width, 7)
    snake(f"{theirs}.snake2", f"{name}.block.2", width)
    conv(f"{theirs}.conv2", f"{name}.block.3", width, width, 1)

  conv("encoder.conv1", "encoder.block.0", 1, 2, 7)
  for i, (width, stride) in enumerate([(2, 2), (4, 3)]):
    theirs, name = f"encoder.block.{i}", f"encoder.block.{i + 1}.block"
    for j in range(3):
      unit(f"{theirs}.res_unit{j + 1}", f"{name}.{j}", width)
    snake(f"{theirs}.snake1", f"{name}.3", width)
    conv(f"{theirs}.conv1", f"{name}.4", width, 2 * width, 2 * stride)
  snake("encoder.snake1", "encoder.block.3", 8)
  conv("encoder.conv2", "encoder.block.4", 8, 8, 3)
  conv("decoder.conv1", "decoder.model.0", 8, 8, 7)
  for i, (width, stride) in enumerate([(8, 3), (4, 2)]):
    theirs, name = f"decoder.block.{i}", f"decoder.model.{i + 1}.block"
    snake(f"{theirs}.snake1", f"{name}.0", width)
    conv(f"{theirs}.conv_t1", f"{name}.1", width, width // 2, 2 * stride, transposed=True)
    for j in range(3):
      unit(f"{theirs}.res_unit{j + 1}", f"{name}.{j + 2}", width // 2)
  snake("decoder.snake1", "decoder.model.3", 2)
  conv("decoder.conv2", "decoder.model.4", 2, 1, 7)
  for q in range(2):
    prefix = f"quantizer.quantizers.{q}"
    conv(f"{prefix}.in_proj", f"{prefix}.in_proj", 8, 4, 1)
    conv(f"{prefix}.out_proj", f"{prefix}.out_proj", 4, 8, 1)
    put(f"{prefix}.codebook.weight", 16, 4)
  return tensors


def folded(tensors):
  """The arrays of a checkpoint whose weight norm was removed."""
  out = {k: v for k, v in tensors.items() if not k.endswith(("weight_g", "weight_v"))}
  for name in tensors:
    if name.endswith("weight_v"):
      v, stem = tensors[name].astype(np.float64), name.removesuffix("_v")
      norm = np.sqrt(np.sum(v**2, axis=(1, 2), keepdims=True))
      out[stem] = (tensors[stem + "_g"] * v / norm).astype(np.float32)
  return out


def write(directory, config=CONFIG, tensors=None):
  directory.mkdir(exist_ok=True)
  (directory / "config.json").write_text(json.dumps(config))
  tensors = folded(tensors_of("transformers")) if tensors is None else tensors
  save_file(tensors, directory / "model.safetensors")
  return directory


def write_original(path, kwargs=KWARGS, tensors=None):
  tensors = tensors_of("original") if tensors is None else tensors
  content = {"state_dict": tensors, "metadata": {"kwargs": kwargs, "logs": [0.5, None]}}
  return Archive().write(path, content)


@pytest.fixture
def weights(tmp_path):
  write_original(tmp_path / "weights.pth")
  return tmp_path / "weights.pth"


def error_of(name_or_path):
  """The one line that `load` says."""
  with pytest.raises(jaxcodec.CodecError) as caught:
    jaxcodec.load(name_or_path)
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  assert len(message) < 500
  return message


def test_both_layouts_and_all_forms_of_a_kernel_give_one_codec(tmp_path, weights):
  tensors = tensors_of("transformers")
  renamed = {
    k.replace("weight_g", "parametrizations.weight.original0").replace(
      "weight_v", "parametrizations.weight.original1"
    ): v
    for k, v in tensors.items()
  }
  want = jaxcodec.load(write(tmp_path / "old", tensors=tensors))
  assert want.name == "old"
  assert want.bitrates == (4000, 8000)
  assert want.codebook_sizes == (16, 16)
  assert (want.hop_length, want.sample_rate, want.causal) == (6, 6000, False)
  example = jax.ShapeDtypeStruct((1, 6, 1), np.float32)
  made = jax.eval_shape(want.module.init, jax.random.key(0), example)["params"]
  assert jax.tree.map(np.shape, want.params) == jax.tree.map(np.shape, made)
  for directory in (
    write(tmp_path / "new", tensors=renamed),
    write(tmp_path / "folded"),
    weights,
    weights.parent,
  ):
    codec = jaxcodec.load(directory)
    assert codec.module == want.module
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)  # noqa: E731
    jax.tree.map(close, codec.params, want.params)


def test_our_own_format_holds_one_too(tmp_path, weights):
  codec = jaxcodec.load(weights)
  jaxcodec.save(codec, tmp_path / "ours")
  back = jaxcodec.load(tmp_path / "ours")
  assert back.module == codec.module
  jax.tree.map(np.testing.assert_array_equal, back.params, codec.params)


NAMES = (
  "encoder.block.1.res_unit3.conv2.weight",
  "encoder.snake1.alpha",
  "decoder.block.0.conv_t1.bias",
  "quantizer.quantizers.1.codebook.weight",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_that_is_missing_or_misshapen_or_not_finite_is_named(tmp_path, name):
  tensors = folded(tensors_of("transformers"))
  good = tensors.pop(name)
  directory = write(tmp_path / "tiny", tensors=tensors)
  assert f"lacks the weight {name}" in error_of(directory)
  write(directory, tensors=tensors | {name: np.stack([good, good])})
  message = error_of(directory)
  assert f"weight {name} " in message
  assert f"{good.shape} needed" in message
  good.flat[-1] = np.nan
  write(directory, tensors=tensors | {name: good})
  assert f"weight {name} " in (message := error_of(directory))
  assert "not finite" in message


@pytest.mark.parametrize(
  "name", ["encoder.block.2.block.2.block.3.weight_v", "decoder.model.3.alpha"]
)
def test_a_weight_of_the_original_layout_is_named_as_it_is_there(weights, name):
  tensors = tensors_of("original")
  good = tensors.pop(name)
  write_original(weights, tensors=tensors)
  assert f"weights.pth lacks the weight {name}" in error_of(weights)
  write_original(weights, tensors=tensors | {name: good[..., None]})
  assert f"weight {name} " in error_of(weights)
  write_original(weights, tensors=tensors | {name: good, "extra.bias": good})
  assert error_of(weights).endswith("does not: extra.bias")


def test_an_extra_weight_is_named(tmp_path):
  tensors = folded(tensors_of("transformers")) | {"decoder.block.9.bias": np.zeros(1, np.float32)}
  directory = write(tmp_path / "tiny", tensors=tensors)
  assert error_of(directory).endswith("does not: decoder.block.9.bias")


BAD = [
  ("encoder_hidden_size", "encoder_dim", 0),
  ("encoder_hidden_size", "encoder_dim", "64"),
  ("decoder_hidden_size", "decoder_dim", 2.0),
  ("downsampling_ratios", "encoder_rates", []),
  ("downsampling_ratios", "encoder_rates", [2, 1]),
  ("downsampling_ratios", "encoder_rates", [2] * 100),
  ("upsampling_ratios", "decoder_rates", [2, 3]),
  ("hidden_size", "latent_dim", -1),
  ("n_codebooks", "n_codebooks", True),
  ("codebook_size", "codebook_size", 1),
  ("codebook_dim", "codebook_dim", [4, 5]),
  ("codebook_dim", "codebook_dim", 10**9),
  ("sampling_rate", "sample_rate", None),
]


@pytest.mark.parametrize(("theirs", "original", "value"), BAD)
def test_a_value_that_is_not_supported_is_named(tmp_path, theirs, original, value):
  assert theirs in error_of(write(tmp_path / "tiny", CONFIG | {theirs: value}))
  write_original(tmp_path / "weights.pth", KWARGS | {original: value})
  assert original in error_of(tmp_path / "weights.pth")


@pytest.mark.parametrize(
  ("content", "words"),
  [
    ([1, 2], "no metadata with kwargs"),
    ({"state_dict": {}}, "no metadata with kwargs"),
    ({"metadata": {"kwargs": KWARGS}}, "no state_dict"),
    ({"metadata": {"kwargs": KWARGS}, "state_dict": {"a": 1}}, "no state_dict of arrays"),
    ({"metadata": {"kwargs": KWARGS}, "state_dict": {}}, "lacks the weight encoder.block.0"),
  ],
)
def test_an_archive_of_something_else_is_named(tmp_path, content, words):
  Archive().write(tmp_path / "weights.pth", content)
  assert words in error_of(tmp_path / "weights.pth")


SYSTEM = b"cos\nsystem\n(X\x04\x00\x00\x00true" + b"tR."


@pytest.mark.parametrize(
  ("stream", "words"),
  [
    (SYSTEM, "imports 'os.system'"),
    (b"cbuiltins\neval\n.", "imports 'builtins.eval'"),
    (b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93.", "imports 'os.system'"),
    (b"(ios\nsystem\n.", "INST"),
    (b"(dX\x01\x00\x00\x00ao.", "DICT"),
    (b"\x80\x02N\x81.", "NEWOBJ"),
    (b"\x82\x01.", "EXT1"),
    (b"\x95\x00", "not a file that torch.save wrote"),
    (b"\xff.", "\\xff"),
    (b"", "has no end"),
    (b"N", "has no end"),
    (b".", "takes more than it made"),
    (b"0", "opcode that is not read, POP"),
    (b"(.", "takes more than it made"),
    (b"e.", "a mark is missing"),
    (b"h\x07.", "of nothing"),
    (b"N)R.", "a call that is not read"),
    (b"ccollections\nOrderedDict\n(NtR.", "a call that is not read"),
    (b"}])s.", "a key that is neither"),
    (b"}(Nu.", "a key without a value"),
    (b"N(Nu.", "no dict"),
    (b"NNb.", "no dict"),
    (b"NQ.", "a storage that is not described"),
    (b"X\xff\xff\xff\x7fabc.", "not a file that torch.save wrote"),
    (b"\x8a\xff\x01.", "not a file that torch.save wrote"),
  ],
)
def test_what_a_pickle_may_not_hold_is_named_and_never_run(tmp_path, stream, words):
  Archive().write_stream(tmp_path / "weights.pth", stream)
  message = error_of(tmp_path / "weights.pth")
  assert words in message


def tensor_stream(size=4, shape=(4,), strides=(1,), offset=0, key="0", kind=b"FloatStorage"):
  archive = Archive()
  parts = b"(" + archive.pickled("storage") + b"ctorch\n" + kind + b"\n"
  parts += archive.pickled(key) + archive.pickled("cpu") + archive.pickled(size) + b"tQ"
  parts += b"".join(map(archive.pickled, (offset, shape, strides, False, None)))
  return b"ctorch._utils\n_rebuild_tensor_v2\n(" + parts + b"tR."


def test_tensors_may_be_views_of_any_strides(tmp_path):
  archive, path = Archive(), tmp_path / "x.pth"
  data = np.arange(6, dtype=np.float32)
  archive.storages = [data.tobytes()]
  for shape, strides, offset, want in (
    ((3, 2), (1, 3), 0, data.reshape(2, 3).T),
    ((2,), (2,), 1, data[1::2][:2]),
    ((), (), 5, np.float32(5)),
    ((0, 3), (3, 1), 0, np.zeros((0, 3))),
  ):
    archive.write_stream(path, tensor_stream(6, shape, strides, offset))
    np.testing.assert_array_equal(read_torch(path), want)
  archive.write_stream(path, tensor_stream(12, (12,), kind=b"BFloat16Storage"))
  assert read_torch(path).shape == (12,)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"size": 5}, "is not of 5 elements"),
    ({"key": "1"}, "lacks the storage '1'"),
    ({"key": "../0"}, "lacks the storage"),
    ({"kind": b"QInt8Storage"}, "imports 'torch.QInt8Storage'"),
    ({"kind": b"DoubleStorage"}, "is not of 4 elements"),
    ({"offset": 1}, "larger than its storage"),
    ({"offset": -1}, "not described"),
    ({"shape": (2, 3), "strides": (3, 1)}, "larger than its storage"),
    ({"shape": (4, 10**6), "strides": (1, 0)}, "hold more than the file"),
    ({"strides": ()}, "not described"),
    ({"shape": [4]}, "not described"),
    ({"shape": (True,)}, "not described"),
    ({"size": True}, "is not of True elements"),
  ],
)
def test_a_tensor_that_its_storage_does_not_hold_is_named(tmp_path, changes, words):
  archive, path = Archive(), tmp_path / "weights.pth"
  archive.storages = [np.arange(4, dtype=np.float32).tobytes()]
  archive.write_stream(path, tensor_stream(**changes))
  assert words in error_of(path)


def test_a_member_that_claims_more_than_the_file_holds_is_refused(tmp_path, weights):
  path = tmp_path / "weights.pth"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
    file.writestr("weights/data.pkl", bytes(10**7))
  assert "claims to hold more than its size" in error_of(path)
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
    file.writestr("weights/data.pkl", b"N.")
  assert "is compressed" in error_of(path)
  with zipfile.ZipFile(path, "w") as file:
    file.writestr("something.txt", b"else")
  assert "holds no data.pkl" in error_of(path)
  with zipfile.ZipFile(path, "w") as file:
    file.writestr("weights/data.pkl", b"N.")
    file.writestr("weights/byteorder", b"big")
  assert "not in little-endian order" in error_of(path)
  path.write_bytes(b"\x80\x02cos\nsystem\n.")  # As torch.save wrote before it wrote archives.
  assert "not a file that torch.save wrote" in error_of(path)


def damage(draw, whole: bytes, most: int) -> bytes:
  """`whole` with up to `most` other bytes."""
  damaged = bytearray(whole)
  for _ in range(draw(st.integers(1, most))):
    damaged[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
  return bytes(damaged)


def load_or_message(path) -> str:
  """What `load` says; empty if it loads. Any other error fails the test."""
  try:
    jaxcodec.load(path)
  except jaxcodec.CodecError as error:
    return str(error)
  return ""


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_archive_gives_one_line_or_loads(tmp_path_factory, data):
  path = tmp_path_factory.mktemp("fuzz") / "weights.pth"
  stream = write_original(path)
  whole = path.read_bytes()
  kind = data.draw(st.sampled_from(["cut", "file", "pickle"]))
  if kind == "cut":
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
  elif kind == "file":
    path.write_bytes(damage(data.draw, whole, 3))
  else:  # Checksums that are right, so that the interpreter must find it.
    archive = Archive()
    archive.storages = [value.tobytes() for value in tensors_of("original").values()]
    archive.write_stream(path, damage(data.draw, stream, 3))
  message = load_or_message(path)
  assert len(message.splitlines()) == (1 if kind == "cut" else min(1, len(message)))
