import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import draw_params
from safetensors.numpy import load_file, save_file

import jaxcodec
from jaxcodec.audio.encodec import Encodec
from jaxcodec.codec import fingerprint
from jaxcodec.layers.seanet import SEANetConfig


@functools.cache
def tiny(segmented=False):
  net = SEANetConfig(num_filters=4, strides=(2, 3), dimension=8, num_lstm_layers=1)
  module = Encodec(net=net, sample_rate=6000, num_codebooks=2, codebook_size=16, bitrates=(8000,))
  if segmented:
    net = dataclasses.replace(net, causal=False, norm="time_group")
    module = dataclasses.replace(module, net=net, segment_length=60, segment_stride=48)
  x = jnp.zeros((1, 60, 1))
  params = draw_params(module, x)
  prior = jnp.arange(32, dtype=jnp.int32).reshape(2, 16)
  return jaxcodec.Codec(module=module, params=params, prior=prior, name="tiny")


@pytest.fixture
def directory(tmp_path):
  jaxcodec.save(tiny(), tmp_path / "saved")
  return tmp_path / "saved"


def error_of(directory):
  with pytest.raises(jaxcodec.CodecError) as caught:
    jaxcodec.load(directory)
  assert len(str(caught.value).splitlines()) == 1
  return str(caught.value)


def bits(x):
  return np.asarray(x).view(np.int32)


@pytest.mark.parametrize("segmented", [False, True])
def test_load_returns_the_bits_that_save_was_given(tmp_path, segmented):
  codec = tiny(segmented)
  jaxcodec.save(codec, tmp_path)
  back = jaxcodec.load(tmp_path)
  assert back.module == codec.module
  assert back.name == codec.name
  assert jax.tree.structure(back) == jax.tree.structure(codec)
  for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(codec), strict=True):
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(bits(got), bits(want))
  assert fingerprint(back) == fingerprint(codec)


@pytest.fixture(scope="module")
def orbax_directory(tmp_path_factory):
  path = tmp_path_factory.mktemp("saved") / "codec"
  jaxcodec.save(tiny(), path, orbax=True)
  return path


def test_an_orbax_checkpoint_holds_the_same_bits(orbax_directory):
  back, codec = jaxcodec.load(orbax_directory), tiny()
  assert jax.tree.structure(back) == jax.tree.structure(codec)
  for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(codec), strict=True):
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(bits(got), bits(want))
  assert fingerprint(back) == fingerprint(codec)


def test_what_orbax_itself_writes_is_read(directory):
  from orbax.checkpoint import v1 as ocp

  codec = tiny()
  jaxcodec.save(dataclasses.replace(codec, prior=codec.prior + 1), directory)
  (directory / "model.safetensors").unlink()
  # As a training loop writes it: jax.Arrays, here spread over devices.
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[-1])
  tree = jax.device_put({"params": codec.params, "prior": codec.prior}, sharding)
  ocp.save(directory / "orbax", tree)
  assert fingerprint(jaxcodec.load(directory)) == fingerprint(codec)


def test_saving_in_one_form_replaces_the_other(directory):
  one, other = (dataclasses.replace(tiny(), prior=tiny().prior + n) for n in (1, 2))
  jaxcodec.save(one, directory, orbax=True)
  np.testing.assert_array_equal(jaxcodec.load(directory).prior, one.prior)
  jaxcodec.save(other, directory)
  np.testing.assert_array_equal(jaxcodec.load(directory).prior, other.prior)
  assert not [path.name for path in directory.iterdir() if path.name.startswith(".")]


def test_an_orbax_checkpoint_of_other_weights_or_none_is_named(tmp_path, orbax_directory):
  from orbax.checkpoint import v1 as ocp

  def error_with(tree):
    ocp.save(tmp_path / "orbax", tree, overwrite=True)
    return error_of(tmp_path)

  (tmp_path / "config.json").write_text((orbax_directory / "config.json").read_text())
  params, prior = jax.tree.map(np.asarray, tiny().params), np.asarray(tiny().prior)
  assert "lacks the weight prior" in error_with({"params": params})
  assert "weight prior " in error_with({"params": params, "prior": prior[:, :5]})
  assert "not have, as extra" in error_with({"params": params, "prior": prior, "extra": prior})
  bad = jax.tree.map(lambda leaf: leaf * np.nan, params)
  assert "is not finite" in error_with({"params": bad, "prior": prior})
  for path in (tmp_path / "orbax").rglob("*"):
    if path.is_file() and path.stat().st_size > 100:
      path.write_bytes(path.read_bytes()[:50])
  assert "is not an Orbax checkpoint" in error_of(tmp_path)


def test_save_writes_over_what_is_there(directory):
  codec = dataclasses.replace(tiny(), prior=tiny().prior + 1)
  jaxcodec.save(codec, directory)
  np.testing.assert_array_equal(jaxcodec.load(directory).prior, codec.prior)


def test_float16_halves_the_file_and_rounds_each_weight(tmp_path, directory):
  jaxcodec.save(tiny(), tmp_path / "half", dtype=jnp.float16)
  arrays = [load_file(path / "model.safetensors") for path in (directory, tmp_path / "half")]
  whole, half = (sum(v.nbytes for k, v in a.items() if k != "prior") for a in arrays)
  assert half * 2 == whole
  back = jaxcodec.load(tmp_path / "half")
  np.testing.assert_array_equal(back.prior, tiny().prior)

  def check(got, want):
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, np.float32(np.float16(want)))

  jax.tree.map(check, back.params, tiny().params)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"version": 2}, "version 2"),
    ({"version": None}, "version None"),
    ({"system": "soap"}, "'soap'"),
    ({"module": []}, "does not describe a codec"),
    ({"module": {}}, "does not describe a codec"),
    ({"module": None}, "does not describe a codec"),
    ({"format": "other"}, "model_type None"),
  ],
)
def test_a_config_of_another_kind_is_named(directory, change, words):
  config = json.loads((directory / "config.json").read_text())
  (directory / "config.json").write_text(json.dumps(config | change))
  assert words in error_of(directory)


@pytest.mark.parametrize("key", ["name", "system", "module"])
def test_a_missing_key_is_named(directory, key):
  config = json.loads((directory / "config.json").read_text())
  del config[key]
  (directory / "config.json").write_text(json.dumps(config))
  assert f"'{key}'" in error_of(directory)


@pytest.mark.parametrize(
  ("where", "change"),
  [
    ("module", {"sample_rate": "fast"}),
    ("module", {"num_codebooks": -1}),
    ("module", {"num_codebooks": 3}),
    ("module", {"codebook_size": 0}),
    ("module", {"unknown": 1}),
    ("net", {"strides": [2, 0]}),
    ("net", {"strides": []}),
    ("net", {"strides": None}),
    ("net", {"num_filters": 0}),
    ("net", {"num_filters": 10**9}),
    ("net", {"pad_mode": "mirror"}),
    ("net", {"norm": "batch"}),
    ("net", {"compress": 0}),
    ("net", {"unknown": 1}),
  ],
)
def test_a_module_that_cannot_be_or_is_not_that_of_the_weights_is_refused(directory, where, change):
  config = json.loads((directory / "config.json").read_text())
  (config["module"] if where == "module" else config["module"]["net"]).update(change)
  (directory / "config.json").write_text(json.dumps(config))
  error_of(directory)


def damaged(directory, change):
  path = directory / "model.safetensors"
  arrays = load_file(path)
  change(arrays)
  save_file(arrays, path)
  return error_of(directory)


BIAS = "params/decoder/conv_out/bias"


def test_damage_to_a_weight_is_named(directory):
  def not_finite(arrays):
    arrays[BIAS] = np.full_like(arrays[BIAS], np.nan)

  assert f"weight {BIAS} " in damaged(directory, not_finite)


def test_a_weight_of_another_shape_is_named(directory):
  def reshape(arrays):
    arrays[BIAS] = np.zeros(2, np.float32)

  message = damaged(directory, reshape)
  assert f"weight {BIAS} " in message
  assert "(2,)" in message
  assert "(1,)" in message


@pytest.mark.parametrize("name", [BIAS, "prior"])
def test_a_missing_array_is_named(directory, name):
  assert f"lacks the weight {name}" in damaged(directory, lambda arrays: arrays.pop(name))


def test_an_extra_array_is_named(directory):
  message = damaged(directory, lambda arrays: arrays.update(extra=np.zeros(1, np.float32)))
  assert message.endswith("does not: extra")


def test_a_truncated_file_is_named(directory):
  path = directory / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-1])
  assert "model.safetensors is not a safetensors file" in error_of(directory)


def test_missing_files_are_named(directory):
  (directory / "model.safetensors").unlink()
  assert "holds no model.safetensors" in error_of(directory)
  (directory / "config.json").unlink()
  assert "holds no config.json" in error_of(directory)
