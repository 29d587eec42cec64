"""Foretelling codes: what the model sees, what it learns, and its run from a dataset of codes."""

import dataclasses
import functools

import jax
import micro
import micro_codec
import numpy as np
import pytest
import soundfile
from jax.sharding import PartitionSpec as P
from random_params import draw_params

from configs import code_lm_speech
from configs.code_transformer_1b import tiny
from jaxcodec import cli, functional as F, tokens
from jaxcodec.data import sources
from jaxcodec.hub.code_lm import load_code_lm
from jaxcodec.training import loop, sequences, sharding
from jaxcodec.training.config import Adam, LearningRate
from jaxcodec.training.placed import placed_step


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


@pytest.mark.slow
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
def test_rows_without_what_was_read_learn_to_do_without(config, codes):
  """Of rows that all go without, the loss is that of codes which lack what was read."""

  def loss(share, codes):
    run = dataclasses.replace(config, drop_read=share)
    step = functools.partial(sequences.train_step, config=run)
    init = functools.partial(sequences.init_state, config=run)
    options = {"compiler_options": micro.QUICK}
    state = jax.jit(init, **options)(jax.random.key(0))
    return float(jax.jit(step, **options)(state, codes, jax.random.key(1))[1]["cross_entropy"])

  absent = np.where(np.arange(13)[:, None] < 6, -1, codes)
  without = loss(0.0, absent)
  np.testing.assert_allclose(loss(1 - 1e-7, codes), without, rtol=1e-6)
  assert abs(loss(0.0, codes) - without) > 1e-3


@pytest.mark.slow
def test_eight_devices_learn_as_one(config, codes, mesh):
  del mesh  # Eight devices are there.
  codes = np.tile(codes, (2, 1, 1))
  losses, split = [], {"data": 2, "fsdp": 2, "model": 2}
  for number, axes in ((1, {}), (8, split), (8, split | {"gather_once": True})):
    placement = dataclasses.replace(config.mesh, fsdp_smallest=1, **axes)
    run = dataclasses.replace(config, mesh=placement, batch_size=8, remat=True, accumulate=2)
    made = sharding.make_mesh(placement, jax.devices()[:number])
    with jax.set_mesh(made):
      placed = placed_step(run, made)
      init = jax.jit(placed.init, out_shardings=placed.shardings, compiler_options=micro.QUICK)
      state, key, found = init(jax.random.key(0)), jax.random.key(1), []
      rows = jax.device_put(codes, sharding.batch_sharding(made))
      for _ in range(5):
        state, metrics = placed.step_at(0)(state, rows, key)
        found.append(float(metrics["cross_entropy"]))
    losses.append(found)
  query = state.params["encoder"]["layers"]["attention"]["query"]["kernel"]
  assert query.sharding.spec == P(None, "fsdp", "model")
  for others in losses[1:]:
    np.testing.assert_allclose(others, losses[0], rtol=1e-4)
  assert losses[0][-1] < losses[0][0]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  """A dataset of the codes of the smallest codec, and one of its sounds."""
  folder = tmp_path_factory.mktemp("codes")
  rng = np.random.default_rng(0)
  (folder / "sounds").mkdir()
  for i in range(4):
    soundfile.write(folder / "sounds" / f"{i}.wav", rng.normal(0, 0.3, 100 + 60 * i), 8000)
  source = sources.open_source(folder / "sounds", sources.SOUNDS)
  tokens.write(micro_codec.codec(), source, folder / "codes")
  return folder / "codes", folder / "sounds" / "3.wav"


def on(config, dataset):
  size = micro_codec.MODULE.codebook_size
  data = dataclasses.replace(config.data, sources=(str(dataset[0]),))
  return dataclasses.replace(config, model=config.model.clone(codebook_size=size), data=data)


@pytest.mark.slow
def test_a_run_on_a_dataset_of_codes_ends_and_goes_on(dataset, tmp_path):
  config, devices = on(tiny(), dataset), jax.devices()[:1]
  state = loop.run(config, tmp_path / "run", quiet=True, devices=devices)
  assert (int(state.step), int(state.skipped)) == (3, 0)
  longer = dataclasses.replace(config, num_steps=5)
  state = loop.run(longer, tmp_path / "run", quiet=True, devices=devices)
  assert (int(state.step), int(state.skipped)) == (5, 0)
  data = dataclasses.replace(config.data, sources=(str(tmp_path),))
  wrong = dataclasses.replace(config, data=data)
  with pytest.raises(ValueError, match="no files of the kinds"):
    loop.run(wrong, tmp_path / "other", quiet=True, devices=devices)


@pytest.mark.slow
def test_a_language_model_that_learnt_codes_makes_a_sound_go_on(dataset, tmp_path, capsys):
  config, run = on(code_lm_speech.tiny(), dataset), tmp_path / "run"
  state = loop.run(config, run, quiet=True, devices=jax.devices()[:1])
  assert (int(state.step), int(state.skipped)) == (3, 0)
  lm = load_code_lm(run)
  assert lm.module == config.model
  jax.tree.map(np.testing.assert_array_equal, lm.params, state.average)
  micro_codec.save(tmp_path / "codec")
  call = ["continue", dataset[1], tmp_path / "on.wav", "--model", run, "--codec"]
  call += [tmp_path / "codec", "--seconds", "0.005", "--guidance", "2"]
  assert cli.main(list(map(str, call))) == 0
  sound, rate = soundfile.read(tmp_path / "on.wav")
  # 280 samples are 70 frames of 4 samples, and 40 samples follow them.
  assert (len(sound), rate) == (320, 8000)
  call[call.index(run)] = tmp_path / "codec"
  assert cli.main(list(map(str, [*call, "--force"]))) == 1
  assert "is not the run of a language model" in capsys.readouterr().err
