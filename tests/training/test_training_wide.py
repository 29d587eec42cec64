"""A codebook of a million entries over eight devices: trained, saved, restored onto two, used."""

import functools
import math
import re

import jax
import micro
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from jaxcodec.training import checkpoints, sharding
from jaxcodec.training.config import Mesh, Quantization
from jaxcodec.training.placed import arguments, placed_step

ENTRIES = 2**20


def codebook_arrays(state) -> list:
  """The arrays of a state that have a row or a count for each entry."""
  return [leaf for leaf in jax.tree.leaves(state) if ENTRIES in leaf.shape]


def test_encoding_many_rows_gathers_neither_entries_nor_distances(mesh):
  del mesh  # Eight devices are there.
  codec = micro.CODEC.clone(num_codebooks=1, codebook_size=ENTRIES, bitrates=(40_000,))
  axes = Mesh(data=2, model=4)
  made = sharding.make_mesh(axes, jax.devices()[:8])
  # 1024 latents: 2^30 distances, 4 GiB in all and 512 MiB for each device.
  x = jax.ShapeDtypeStruct((2, 2048, 1), np.float32)
  shapes = jax.eval_shape(codec.init, jax.random.key(0), x)["params"]
  rows = sharding.batch_sharding(made)
  encode = jax.jit(
    lambda params, x: codec.apply({"params": params}, x, 1, method="encode"),
    in_shardings=(sharding.state_shardings(shapes, made, axes), rows),
    out_shardings=rows,
  )
  program = encode.lower(shapes, x).compile()
  assert not re.findall(rf"\w+\[[\d,]*\b{ENTRIES},{codec.net.dimension}\]", program.as_text())
  memory = program.memory_analysis()
  assert memory.argument_size_in_bytes < 1.1 * ENTRIES * codec.net.dimension * 4 / 4
  # A tile of distances is 2^26 of them over eight devices; one more and the entries besides.
  assert memory.temp_size_in_bytes < 2.5 * 4 * 2**26 / 8


@pytest.mark.slow
def test_no_device_ever_holds_the_codebook(mesh, tmp_path):
  del mesh  # Eight devices are there.
  config = micro.config(
    codec=micro.CODEC.clone(num_codebooks=1, codebook_size=ENTRIES, bitrates=(40_000,)),
    quantization=Quantization(),
    mesh=Mesh(data=1, fsdp=1, model=8, fsdp_smallest=1),
    batch_size=2,
  )
  made = sharding.make_mesh(config.mesh, jax.devices()[:8])
  placed = placed_step(config, made)
  whole = ENTRIES * config.codec.net.dimension * 4
  compiled = placed.step_at(0).lower(*arguments(config, placed, made)).compile()
  memory = compiled.memory_analysis()
  # Codebook, average, sums and the optimizer's two moments, and numbers for each entry, in eighths.
  eighths = sum(
    math.prod(place.shard_shape(leaf.shape)) * 4
    for leaf, place in zip(
      jax.tree.leaves(placed.shapes), jax.tree.leaves(placed.shardings), strict=True
    )
    if ENTRIES in leaf.shape
  )
  assert eighths <= 6 * whole / 8
  assert memory.argument_size_in_bytes < 1.1 * eighths
  # The program of a device: numbers for all entries are in it, but nowhere all entries.
  whole_shape = rf"\w+\[[\d,]*\b{ENTRIES},{config.codec.net.dimension}\]"
  assert not re.findall(whole_shape, compiled.as_text())

  init = jax.jit(
    placed.init,
    out_shardings=placed.shardings,
    compiler_options={"xla_backend_optimization_level": 0},
  )
  key = jax.random.key(0)
  state = init(key)
  before = np.asarray(state.ema.counts.sum())
  x = micro.batch(0, 2)
  for _ in range(2):
    state, metrics = compiled(state, jax.device_put(x, sharding.batch_sharding(made)), key)
  assert np.isfinite(float(metrics["commitment"]))
  assert int(state.skipped) == 0
  assert float(state.ema.counts.sum()) < before  # Most entries were not used, and fade.
  for leaf in codebook_arrays(state):
    assert {math.prod(s.data.shape) for s in leaf.addressable_shards} == {leaf.size // 8}
  with checkpoints.opened(config, tmp_path) as checkpointer:
    checkpoints.save(checkpointer, 2, state, 0.0)

  two = sharding.make_mesh(Mesh(data=1, model=2), jax.devices()[:2])
  shardings = sharding.state_shardings(placed.shapes, two, Mesh(data=1, model=2))
  with checkpoints.opened(config, tmp_path) as checkpointer:
    restored = checkpoints.restore(checkpointer, placed.shapes, shardings)
  for leaf in codebook_arrays(restored):
    assert {math.prod(s.data.shape) for s in leaf.addressable_shards} == {leaf.size // 2}

  def encode(params, x):
    return config.codec.apply({"params": params}, x, 1, method="encode")

  rows = NamedSharding(two, P())
  encode = jax.jit(encode, in_shardings=(shardings.params, rows), out_shardings=rows)
  lowered = encode.lower(restored.params, x)
  program = lowered.compile()
  assert not re.findall(whole_shape, program.as_text())
  codes = np.asarray(program(restored.params, jax.device_put(x, rows)))
  # The definition, in NumPy: the entry nearest to each latent.
  latents = functools.partial(config.codec.apply, method=lambda codec, x: codec.encoder(x)[0])
  z = np.asarray(jax.jit(latents)({"params": jax.device_get(restored.params)}, x), np.float64)
  codebook = np.asarray(restored.params["quantizer"]["codebooks"][0], np.float64)
  for row, code in zip(z.reshape(-1, z.shape[-1]), codes.reshape(-1), strict=True):
    distances = ((codebook - row) ** 2).sum(axis=1)
    assert distances[code] <= distances.min() + 1e-6
