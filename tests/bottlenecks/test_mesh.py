"""Codes, statistics and codebooks on eight devices are those of one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P
from zoo import normal

from jaxcodec import bottlenecks as B, functional as F

VQ = B.ResidualVQ(2, 16, 6)
CODEBOOKS, Z = normal(2, 16, 6), normal(16, 5, 6, seed=1)
MASK = np.arange(5) < 3 + np.arange(16)[:, None] % 3


@pytest.fixture(scope="module")
def meshes():
  devices = jax.devices()
  if len(devices) < 8:
    pytest.skip(f"needs 8 devices, there are {len(devices)}")
  auto = (jax.sharding.AxisType.Auto,) * 2
  make = functools.partial(jax.make_mesh, axis_names=("data", "model"), axis_types=auto)
  return {shape: make(shape, devices=devices[: shape[0] * shape[1]]) for shape in MESHES}


MESHES = ((1, 1), (8, 1), (2, 4))


@functools.partial(jax.jit, static_argnames="decay")
def update(codebooks, ema, z, mask, key, decay):
  """A training step of the codebooks: codes, averages, restart of what is rarely used."""
  out = VQ.apply({"params": {"codebooks": codebooks}}, z, mask)
  codebooks, ema = F.ema_update(ema, out.statistics, decay)
  inputs = VQ.apply({"params": {"codebooks": codebooks}}, z, out.codes, method="inputs")
  valid = mask.reshape(-1)
  codebooks, ema = F.restart_dead_codes(key, codebooks, ema, inputs, 1.5, valid)
  return out.z, out.codes, out.loss, codebooks, ema


@jax.jit
def start(key, z, mask):
  return F.residual_kmeans(key, z.reshape(-1, 6), 2, 16, 5, mask.reshape(-1))


def place(mesh, codebooks):
  rows, entries = NamedSharding(mesh, P("data")), NamedSharding(mesh, P(None, "model"))
  state = jax.device_put((codebooks, F.ema_state(jnp.asarray(codebooks))), entries)
  return (*state, *jax.device_put((Z, MASK), rows))


def test_one_update_is_the_same_on_every_mesh(meshes):
  found = {}
  for shape, mesh in meshes.items():
    found[shape] = update(*place(mesh, CODEBOOKS), jax.random.key(3), 0.8)
  (z_q, codes, loss, codebooks, ema), *others = found.values()
  restarted = np.asarray(ema.counts) == 1.5
  assert 0 < restarted.sum() < 32
  for other in others:
    np.testing.assert_array_equal(other[0], z_q)
    np.testing.assert_array_equal(other[1], codes)
    np.testing.assert_allclose(other[2], loss, rtol=1e-6)  # Summed in another order.
    # The same entries restart, from the same rows.
    np.testing.assert_array_equal(np.asarray(other[4].counts) == 1.5, restarted)
    np.testing.assert_allclose(other[3], codebooks, rtol=1e-5, atol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), other[4], ema)


@pytest.mark.slow
def test_k_means_hangs_on_the_key_alone(meshes):
  found = []
  for mesh in meshes.values():
    rows = NamedSharding(mesh, P("data"))
    found.append(start(jax.random.key(5), *jax.device_put((Z, MASK), rows)))
  for other in found[1:]:
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), other, found[0]
    )
  again = start(jax.random.key(6), Z, MASK)
  assert np.abs(again[0] - found[0][0]).max() > 0.1


def test_only_rows_that_count_are_drawn():
  z = np.where(MASK[..., None], Z, 100).reshape(1, -1, 6)
  books, ema = CODEBOOKS[:1], F.ema_state(CODEBOOKS[:1], 0.0)
  fresh, _ = F.restart_dead_codes(jax.random.key(0), books, ema, z, 1.0, MASK.reshape(-1))
  assert np.abs(fresh).max() < 100
  assert len(np.unique(np.asarray(fresh), axis=1)[0]) > 8
  nobody, same = F.restart_dead_codes(
    jax.random.key(0), books, ema, z, 1.0, np.zeros(z.shape[1], bool)
  )
  np.testing.assert_array_equal(nobody, books)
  np.testing.assert_array_equal(same.counts, ema.counts)
  drawn = np.asarray(F.draw_rows(jax.random.key(1), MASK.reshape(-1), 70))
  assert MASK.reshape(-1)[drawn].all()
  number = MASK.sum()
  assert len(np.unique(drawn[:number])) == number


def test_quantizer_dropout_draws_each_number_of_stages():
  drawn = np.asarray(F.draw_num_active(jax.random.key(0), 4000, 4, 0.5))
  share = np.bincount(drawn, minlength=5) / 4000
  np.testing.assert_allclose(share, [0, 0.125, 0.125, 0.125, 0.625], atol=0.03)
