"""Every configuration trains: three steps of its `tiny()`, whose codec then codes."""

import dataclasses
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from PIL import Image

import jaxcodec
from configs import vqgan_256
from jaxcodec.training import loop

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
# What learns from teachers has a test of its own.
NAMES = sorted(path.stem for path in CONFIGS.glob("*hz.py") if path.stem != "dm_codec_16khz")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", NAMES)
def test_three_steps_make_a_codec(name, tmp_path):
  rng = np.random.default_rng(0)
  for i in range(3):
    soundfile.write(tmp_path / f"{i}.wav", rng.normal(0, 0.1, 8000), 16_000)
  config = importlib.import_module(f"configs.{name}").tiny()
  data = dataclasses.replace(config.data, sources=(str(tmp_path),))
  config = dataclasses.replace(config, data=data)
  state = loop.run(config, tmp_path / "run", quiet=True, devices=jax.devices()[:1])
  assert (int(state.step), int(state.skipped)) == (3, 0)
  codec = jaxcodec.load(tmp_path / "run")
  assert codec.name == config.name
  used = np.asarray(state.usage).sum(axis=1)
  assert (used > 0).all()
  np.testing.assert_array_equal(codec.prior.shape, state.usage.shape)
  assert all(bool(jnp.isfinite(leaf).all()) for leaf in (codec.prior, state.usage))


def test_photographs_train_a_tokenizer_of_pictures(data, tmp_path):
  photos, run = data / "photos" / "photos_val.tar", tmp_path / "run"
  config = vqgan_256.tiny()
  sources = dataclasses.replace(config.data, sources=(str(photos),))
  config = dataclasses.replace(config, data=sources, num_steps=6, samples_every=6)
  loop.run(config, run, quiet=True, devices=jax.devices()[:1])
  codec = jaxcodec.load(run)
  x = np.asarray(Image.open(run / "samples" / "00000006_original.png"), np.float32) / 127.5 - 1
  apply = jax.jit(codec.module.apply, static_argnames="method")
  codes = apply({"params": codec.params}, x[None], method="encode")
  assert codes.shape == (1, 8, 8, 1)
  assert len(np.unique(codes)) > 1
  y = np.clip(apply({"params": codec.params}, codes, method="decode"), -1, 1)
  shown = np.asarray(Image.open(run / "samples" / "00000006_decoded.png"), np.float32) / 127.5 - 1
  np.testing.assert_allclose(y[0], shown, atol=0.5 / 127.5 + 1e-4)
