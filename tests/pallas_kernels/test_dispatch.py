import jax
import jax.numpy as jnp
import numpy as np
import tpu_topologies as topologies
from jax.experimental import pallas as pl
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from pallas_kernels.dispatch import dispatch, shape_like


def plain(x, y):
  return (x + y,)


def body(x_ref, y_ref, out_ref):
  out_ref[...] = x_ref[...] + y_ref[...]


def kernel(x, y):
  return (pl.pallas_call(body, out_shape=shape_like(x, x.shape, x.dtype))(x, y),)


def add(x, y):
  return dispatch(x, y, plain=plain, tpu=kernel)[0]


def test_one_device_runs_the_kernel_also_under_vmap():
  x = jax.ShapeDtypeStruct((3, 16, 128), jnp.float32)
  compiled = topologies.compile_for("v5e", jax.vmap(add, (0, None)), x, x.update(shape=(16, 128)))
  assert len(topologies.kernels(compiled)) == 1
  assert topologies.vmem_bytes(compiled) >= 3 * 16 * 128 * 4


def test_sharding_left_to_the_compiler_takes_the_plain_form_and_shard_map_the_kernel():
  mesh = Mesh(topologies.devices("v5e"), ("data",), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, P("data"))
  x = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=rows)
  automatic = topologies.compiled(jax.jit(add).lower(x, x))
  assert topologies.kernels(automatic) == []
  assert automatic.output_shardings == rows
  by_hand = jax.shard_map(add, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
  y = x.update(sharding=NamedSharding(mesh, P()))
  mapped = topologies.compiled(jax.jit(by_hand).lower(x, y.update(shape=(16, 128))))
  assert len(topologies.kernels(mapped)) == 1


def test_other_platforms_run_the_plain_form(mesh):
  x = np.arange(64.0, dtype=np.float32).reshape(16, 4)
  np.testing.assert_array_equal(add(x, x), 2 * x)
  np.testing.assert_array_equal(jax.vmap(add, (0, None))(x[:, None], x[:1]), x[:, None] + x[:1])
  with jax.disable_jit():
    np.testing.assert_array_equal(add(x, x), 2 * x)
  mapped = jax.shard_map(add, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
  np.testing.assert_array_equal(mapped(x, x[:2]), x + np.tile(x[:2], (8, 1)))
  exported = jax.export.export(jax.jit(add), platforms=["cuda"])(x, x)
  assert "custom_call" not in exported.mlir_module()
