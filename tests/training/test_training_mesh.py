"""Losses and codebooks are the same on one device, on eight, and on two processes of four."""

import flax.linen as nn
import jax
import micro
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxcodec.layers.attend import Attend
from jaxcodec.training import checkpoints, sharding
from jaxcodec.training.config import Mesh
from jaxcodec.training.state import init_state


def test_meshes_take_all_devices_or_say_why_not():
  devices = jax.devices()
  if len(devices) < 8:
    pytest.skip(f"needs 8 devices, there are {len(devices)}")
  mesh = sharding.make_mesh(Mesh(data=-1, fsdp=2, model=2), devices[:8])
  assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "model": 2}
  for wrong in (Mesh(data=3), Mesh(data=-1, fsdp=-1), Mesh(data=4, fsdp=1)):
    with pytest.raises(ValueError, match="does not fit 8 devices"):
      sharding.make_mesh(wrong, devices[:8])
  sharding.check_batch(8, 2, mesh)
  with pytest.raises(
    ValueError, match="batch_size=12 is no multiple of data x fsdp x accumulate = 8"
  ):
    sharding.check_batch(12, 2, mesh)


def test_attention_keeps_rows_on_their_devices_and_is_a_kernel_there(mesh):
  del mesh  # Eight devices are there.
  made = sharding.make_mesh(Mesh(data=2, fsdp=4), jax.devices()[:8])
  q = np.random.default_rng(0).normal(size=(8, 5, 2, 4)).astype(np.float32)

  def loss(q):
    return (Attend().apply({}, q, q, q) ** 2).sum()

  def apart(q):
    with nn.intercept_methods(sharding.rows_apart):
      return jax.grad(loss)(q)

  rows = jax.NamedSharding(made, sharding.BATCH)
  with jax.set_mesh(made):
    step = jax.jit(apart, in_shardings=rows)
    text = step.trace(q).lower(lowering_platforms=("tpu",)).as_text()
    got = step(q)
    plain = jax.jit(jax.grad(loss), in_shardings=rows).trace(q)
  # Forward, and backward to queries and to keys.
  assert text.count("@tpu_custom_call") == 3
  assert "@tpu_custom_call" not in plain.lower(lowering_platforms=("tpu",)).as_text()
  assert got.sharding.spec == sharding.BATCH
  np.testing.assert_allclose(got, jax.jit(jax.grad(loss))(q), atol=1e-5)


def test_rules_place_codebooks_and_the_rest_is_split_by_its_largest_axis(mesh):
  del mesh  # Eight devices are there.
  config = micro.config(mesh=Mesh(data=1, fsdp=2, model=4, fsdp_smallest=1))
  made = sharding.make_mesh(config.mesh, jax.devices()[:8])
  shapes = jax.eval_shape(lambda key: init_state(key, config), jax.random.key(0))
  placed = sharding.state_shardings(shapes, made, config.mesh)
  assert placed.params["quantizer"]["codebooks"].spec == P(None, "model")
  assert placed.average["quantizer"]["codebooks"].spec == P(None, "model")
  assert placed.ema.counts.spec == P(None, "model")
  # [8 taps, 2, 4]: the first axis is the largest that two devices divide.
  assert shapes.params["encoder"]["down_0"]["kernel"].shape == (8, 2, 4)
  assert placed.params["encoder"]["down_0"]["kernel"].spec == P("fsdp")
  moments = [
    sharding_.spec
    for path, sharding_ in jax.tree_util.tree_leaves_with_path(placed.optimizer)
    if "down_0" in jax.tree_util.keystr(path) and "kernel" in jax.tree_util.keystr(path)
  ]
  assert moments == [P("fsdp"), P("fsdp")]
  assert placed.step.spec == P()
  wrong = Mesh(data=1, fsdp=2, model=4, rules=((r"codebooks$", P("model")),))
  with pytest.raises(ValueError, match=r"codebooks of shape .* does not divide"):
    sharding.state_shardings(shapes, made, wrong)


def test_a_checkpoint_is_restored_onto_other_meshes(mesh, tmp_path):
  del mesh  # Eight devices are there.
  config = micro.config()
  shapes = jax.eval_shape(lambda key: init_state(key, config), jax.random.key(0))
  rng = np.random.default_rng(0)
  drawn = jax.tree.map(lambda leaf: (9 * rng.random(leaf.shape)).astype(leaf.dtype), shapes)

  def shardings_on(number, **axes):
    chosen = Mesh(fsdp_smallest=1, **axes)
    made = sharding.make_mesh(chosen, jax.devices()[:number])
    return sharding.state_shardings(shapes, made, chosen)

  layouts = (
    shardings_on(8, data=2, fsdp=2, model=2),
    shardings_on(2, data=1, fsdp=2),
    shardings_on(1),
  )
  with checkpoints.opened(config, tmp_path) as checkpointer:
    checkpoints.save(checkpointer, 1, jax.device_put(drawn, layouts[0]), 0.0)
  for layout in layouts:
    with checkpoints.opened(config, tmp_path) as checkpointer:
      found = checkpoints.restore(checkpointer, shapes, layout)
    jax.tree.map(np.testing.assert_array_equal, found, drawn)
    assert jax.tree.map(lambda leaf: leaf.sharding, found) == layout


@pytest.fixture(scope="module")
def alone():
  return micro.run_steps(Mesh(fsdp_smallest=1), jax.devices()[:1])


def assert_same(found, wanted):
  losses, codebooks = found
  np.testing.assert_allclose(losses, wanted[0], rtol=1e-4)
  np.testing.assert_allclose(codebooks, wanted[1], rtol=1e-4, atol=1e-5)


SHAPES = [(d, f, 8 // d // f) for d in (1, 2, 4, 8) for f in (1, 2, 4, 8) if d * f <= 8]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_eight_devices_train_as_one(alone, shape, mesh):
  del mesh  # Eight devices are there.
  data, fsdp, model = shape
  axes = Mesh(data=data, fsdp=fsdp, model=model, fsdp_smallest=1)
  assert_same(micro.run_steps(axes, jax.devices()[:8]), alone)


@pytest.mark.slow
def test_two_processes_of_four_devices_train_as_one(alone, tmp_path):
  processes = micro.two_processes(lambda i: (str(tmp_path / f"{i}.npz"),), devices=4)
  for process in processes:
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error[-2000:]
  for i in range(2):
    with np.load(tmp_path / f"{i}.npz") as found:
      assert_same((found["losses"], found["codebooks"]), alone)
