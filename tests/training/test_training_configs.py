"""Every configuration trains: three steps of its `tiny()`, whose codec then codes."""

import dataclasses
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import jaxcodec
from jaxcodec.training import loop

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py") if "prior" not in path.stem)

pytestmark = [pytest.mark.slow, pytest.mark.unoptimized]


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
