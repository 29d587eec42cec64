"""Foretelling codes: what the model sees, what it learns, and its run from a dataset of codes."""

import dataclasses

import jax
import micro
import micro_codec
import numpy as np
import pytest
import soundfile
from jax.sharding import PartitionSpec as P
from random_params import draw_params

from configs.code_transformer_1b import tiny
from jaxcodec import functional as F, tokens
from jaxcodec.data import sources
from jaxcodec.training import loop, sequences, sharding
from jaxcodec.training.config import Adam, LearningRate
from jaxcodec.training.placed import placed_step

pytestmark = pytest.mark.unoptimized


@pytest.fixture(scope="module")
def config():
  adam = Adam(rate=LearningRate(peak=1e-2))
  return dataclasses.replace(tiny(), optimizer=adam, num_steps=200, batch_size=4, remat=False)


@pytest.fixture(scope="module")
def codes(config):
  rng = np.random.default_rng(0)
  codes = rng.integers(0, 8, (4, *config.data.shape(config.model))).astype(np.int32)
  codes[0, -2:] = -1  # A recording that ends before the example does.
  return codes


def test_a_code_is_foretold_from_what_was_read_and_what_is_before_it(config, codes):
  source, target = codes[:, :6], np.asarray(F.arranged(codes[:, 6:], F.delay_pattern(7, 2)))
  params = draw_params(config.model, source, target)
  apply = jax.jit(lambda source, target: config.model.apply({"params": params}, source, target))
  logits = np.asarray(apply(source, target))
  assert logits.shape == (*target.shape, 8)
  later, other = target.copy(), source.copy()
  later[:, 4:] = (later[:, 4:] + 1) % 8
  changed = np.abs(np.asarray(apply(source, later)) - logits).max(axis=(0, 2, 3))
  # Step 4 is foretold from steps 0 to 3 alone; step 5 sees what stands at 4.
  assert changed[:5].max() < 1e-5 < changed[5:].min()
  other[:, 0] = (other[:, 0] + 1) % 8
  assert np.abs(np.asarray(apply(other, target)) - logits).max(axis=(0, 2, 3)).min() > 1e-5


def test_codes_that_repeat_are_learnt_and_absent_ones_count_for_nothing(config, codes):
  # Each row repeats its first frame, so what was read tells all of what follows.
  codes = np.where(codes < 0, -1, codes[:, :1])
  step = jax.jit(
    lambda state, codes: sequences.train_step(state, codes, None, config=config),
    compiler_options=micro.QUICK,
  )
  init = jax.jit(lambda key: sequences.init_state(key, config), compiler_options=micro.QUICK)
  state = init(jax.random.key(0))
  state, metrics = step(state, codes)
  start = float(metrics["cross_entropy"])
  np.testing.assert_allclose(start, np.log(8), atol=0.7)
  for _ in range(100):
    state, metrics = step(state, codes)
  assert float(metrics["cross_entropy"]) < 0.1 * start
  assert float(metrics["accuracy"]) == 1
  nothing = step(state, np.where(np.arange(13)[:, None] < 6, codes, -1))[1]
  assert float(nothing["cross_entropy"]) == 0


@pytest.mark.slow
def test_eight_devices_learn_as_one(config, codes, mesh):
  del mesh  # Eight devices are there.
  codes = np.tile(codes, (2, 1, 1))
  losses = []
  for number, axes in ((1, {}), (8, {"data": 2, "fsdp": 2, "model": 2})):
    placement = dataclasses.replace(config.mesh, fsdp_smallest=1, **axes)
    run = dataclasses.replace(config, mesh=placement, batch_size=8, remat=True, accumulate=2)
    made = sharding.make_mesh(placement, jax.devices()[:number])
    with jax.set_mesh(made):
      placed = placed_step(run, made)
      init = jax.jit(placed.init, out_shardings=placed.shardings, compiler_options=micro.QUICK)
      state, key, found = init(jax.random.key(0)), jax.random.key(1), []
      rows = jax.device_put(codes, sharding.batch_sharding(made))
      for _ in range(5):
        state, metrics = placed.step(state, rows, key)
        found.append(float(metrics["cross_entropy"]))
    losses.append(found)
  query = state.params["encoder"]["layers"]["attention"]["query"]["kernel"]
  assert query.sharding.spec == P(None, "fsdp", "model")
  np.testing.assert_allclose(*losses, rtol=1e-4)
  assert losses[0][-1] < losses[0][0]


@pytest.mark.slow
def test_a_run_on_a_dataset_of_codes_ends_and_goes_on(tmp_path):
  codec = micro_codec.codec()
  rng = np.random.default_rng(0)
  (tmp_path / "sounds").mkdir()
  for i in range(4):
    soundfile.write(tmp_path / "sounds" / f"{i}.wav", rng.normal(0, 0.3, 100 + 60 * i), 8000)
  source = sources.open_source(tmp_path / "sounds", sources.SOUNDS)
  tokens.write(codec, source, tmp_path / "codes")
  config = tiny()
  model = config.model.clone(codebook_size=codec.codebook_sizes[0])
  data = dataclasses.replace(config.data, sources=(str(tmp_path / "codes"),))
  config = dataclasses.replace(config, model=model, data=data)
  devices = jax.devices()[:1]
  state = loop.run(config, tmp_path / "run", quiet=True, devices=devices)
  assert (int(state.step), int(state.skipped)) == (3, 0)
  longer = dataclasses.replace(config, num_steps=5)
  state = loop.run(longer, tmp_path / "run", quiet=True, devices=devices)
  assert (int(state.step), int(state.skipped)) == (5, 0)
  wrong = dataclasses.replace(config, data=dataclasses.replace(data, sources=(str(tmp_path),)))
  with pytest.raises(ValueError, match="no files of the kinds"):
    loop.run(wrong, tmp_path / "other", quiet=True, devices=devices)
