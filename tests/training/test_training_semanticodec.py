"""SemantiCodec's two stages: who learns when, how a batch is taken, and what a run refuses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import semanticodec_16khz
from jaxcodec.data.sound import Sound
from jaxcodec.training import semanticodec, sharding, tasks
from jaxcodec.training.config import Mesh

CONFIG = semanticodec_16khz.tiny()


# They run once or twice: optimizing them takes longer.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def state():
  """A start whose weights are drawn here: compiling the draws of all layers takes a minute."""
  init = functools.partial(semanticodec.init_state, config=CONFIG)
  shapes, rng = jax.eval_shape(init, jax.random.key(0)), np.random.default_rng(1)
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

  def drawn(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.1, leaf.shape), leaf.dtype), tree)

  params = drawn(shapes.params)
  return zeros._replace(params=params, average=params, discriminators=drawn(shapes.discriminators))


def batch(rows: int):
  x = np.random.default_rng(0).normal(0, 0.1, (rows, CONFIG.codec.window_length, 1))
  return x.astype(np.float32)


def names(tree) -> set[str]:
  paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(tree))
  return {jax.tree_util.keystr(path, simple=True, separator="/") for path in paths}


def moved(before, after) -> set[str]:
  same = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
  pairs = zip(sorted(names(same)), jax.tree.leaves(same), strict=True)
  return {name for name, still in pairs if not still}


def begins(found: set[str], *starts: str) -> bool:
  return all(name.startswith(starts) for name in found) and all(
    any(name.startswith(start) for name in found) for start in starts
  )


def test_a_parameter_learns_in_one_stage_or_in_none(state):
  trees = semanticodec._trees(state)
  first, second = (semanticodec._parted(trees, stage)[0] for stage in (False, True))
  assert not names(first) & names(second)
  assert names(trees) - names(first) - names(second) == {
    "codec/encoder/positions",
    "codec/quantizer/centroids",
    "codec/quantizer/acoustic/codebooks",
    "codec/decoder/latent_scale",
  }


@pytest.mark.slow
@pytest.mark.parametrize("second", [False, True])
def test_a_step_of_a_stage_moves_its_own_parts_and_their_averages(state, second):
  step = jit(functools.partial(semanticodec.train_step, config=CONFIG, second=second))
  new, metrics = step(state, batch(2), jax.random.key(1))
  assert int(new.skipped) == 0
  codec, helpers = moved(state.params, new.params), moved(state.discriminators, new.discriminators)
  assert moved(state.average, new.average) == codec
  assert not moved(state.optimizer[not second], new.optimizer[not second])
  assert moved(state.optimizer[second], new.optimizer[second])
  if second:
    parts = "quantizer/lstm", "quantizer/project", "quantizer/acoustic", "decoder/unet"
    assert begins(codec, *parts)
    assert not helpers
    assert set(metrics) >= {"commitment", "diffusion"}
    assert moved(state.ema, new.ema)
    assert float(new.usage.sum()) > 0
  else:
    assert begins(codec, "encoder", "decoder/vae", "decoder/vocoder")
    assert begins(helpers, "predictor", "vae")
    assert set(metrics) >= {"masked", "spectrum", "divergence", "vocoder"}
    assert not moved((state.ema, state.usage), (new.ema, new.usage))


@pytest.mark.slow
@pytest.mark.parametrize("second", [False, True])
def test_a_batch_in_parts_has_the_mean_gradient_of_its_parts_and_remat_the_same(state, second):
  learning, still = semanticodec._parted(semanticodec._trees(state), second)
  key, x = jax.random.key(2), batch(4)

  def gradients(x, key, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    run = functools.partial(semanticodec._gradients, config=config, second=second)
    return jit(run)(learning, still, x, key)[0]

  keys = jax.random.split(key, 2)
  each = [gradients(x[i::2], keys[i]) for i in range(2)]
  wanted = jax.tree.map(lambda a, b: (a + b) / 2, *each)
  found = gradients(x, key, accumulate=2)
  again = gradients(x[::2], keys[0], remat=True)
  largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
  assert largest > 1e-3
  for a, b in ((wanted, found), (each[0], again)):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
      # Float32's rounding in sums of another order.
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6 * largest)


def test_a_step_gathers_each_weight_once_and_splits_its_gradient_again(state):
  learning, still = semanticodec._parted(semanticodec._trees(state), True)
  mesh = sharding.make_mesh(Mesh(data=1, fsdp=-1))

  def placed(once):
    config = dataclasses.replace(CONFIG, mesh=Mesh(data=1, fsdp=-1, gather_once=once))
    run = functools.partial(semanticodec._gradients, config=config, second=True)
    with jax.set_mesh(mesh):
      traced = jax.make_jaxpr(run)(learning, still, batch(8), jax.random.key(3))
    return str(traced).count("sharding_constraint")

  learns, all_of_them = (len(jax.tree.leaves(t)) for t in (learning, (learning, still)))
  assert placed(True) - placed(False) == all_of_them + learns


@pytest.mark.parametrize(
  ("change", "word"),
  [
    ({"start_step": 0}, "start_step"),
    ({"start_step": 4}, "start_step"),
    ({"kmeans_batches": 0}, "kmeans_batches"),
    ({"data": Sound(segment_seconds=1.0)}, "segment_seconds"),
    ({"data": Sound(segment_seconds=0.32, packed=True)}, "packed"),
  ],
)
def test_a_run_that_contradicts_itself_is_refused(change, word):
  with pytest.raises(ValueError, match=word):
    tasks.check(dataclasses.replace(CONFIG, **change))
