"""Speed on a CPU, and compilation for TPU v5e, of neural sound codecs at their published sizes.

Command: python -m benchmarks.systems.neural_speed [--only NAME] [--seconds 10] [--tpu | --work]

Weights and codes are random. One row of sound; the best of three runs once compiled, or of as many
as begin within half a minute: a multiple of real time, and the time of all processors together for
a second of sound, which other work on the machine changes less. `--tpu` compiles both halves for
one v5e chip instead and says how long it took; it needs `jax[tpu]` and no TPU. `--work` counts the
operations of products and convolutions as traced.
"""

import argparse
import functools
import importlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxcodec
from jaxcodec import terminal
from jaxcodec.training import operations

CONFIGS = (
  "hifi_codec_24khz",
  "wavtokenizer_24khz",
  "language_codec_24khz",
  "dm_codec_16khz",
  "semanticodec_16khz",
)
RUNS, LIMIT = 3, 30.0


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", choices=CONFIGS)
  parser.add_argument("--seconds", type=float, default=10.0)
  parser.add_argument("--tpu", action="store_true")
  parser.add_argument("--work", action="store_true")
  options = parser.parse_args()
  units = ["compiled for v5e, s"] if options.tpu else ["times real time", "CPU s a second"]
  units = ["GFLOP a second of sound"] if options.work else units
  columns = [f"{half}, {unit}" for unit in units for half in ("encode", "decode")]
  print(f"| configuration | million parameters | {' | '.join(columns)} |")
  print("|---|---:|" + "---:|" * len(columns))
  for name in [options.only] if options.only else CONFIGS:
    module = importlib.import_module(f"configs.{name}").get_config().codec
    length = round(options.seconds * module.sample_rate)
    measure = compile_seconds if options.tpu else work if options.work else speed
    figures = measure(module, length)
    shapes = jax.tree.leaves(shapes_of(module).params)
    millions = sum(int(np.prod(leaf.shape)) for leaf in shapes) / 1e6
    cells = " | ".join(f"{figure:.2f}" for figure in figures)
    print(f"| `{name}` | {millions:.1f} | {cells} |", flush=True)


def shapes_of(module) -> jaxcodec.Codec:
  """A codec of shapes in place of weights."""
  example = jax.ShapeDtypeStruct((1, *module.smallest), jnp.float32)
  params = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
  sizes = module.codebook_sizes
  prior = jax.ShapeDtypeStruct((len(sizes), max(sizes)), jnp.int32)
  return jaxcodec.Codec(module=module, params=params, prior=prior, name="random")


def drawn(module) -> jaxcodec.Codec:
  """A codec with weights at random."""
  rng = np.random.default_rng(0)

  def draw(leaf):
    if leaf.dtype == jnp.int32:
      return np.ones(leaf.shape, np.int32)
    spread = max(1, np.prod(leaf.shape[:-1])) ** -0.5
    return (spread * rng.standard_normal(leaf.shape, np.float32)).astype(np.float32)

  return jax.device_put(jax.tree.map(draw, shapes_of(module)))


def speed(module, length: int) -> tuple[float, ...]:
  """Multiples of real time, then processors' time for a second of sound."""
  rng = np.random.default_rng(0)
  codec = drawn(module)
  x = jnp.asarray(0.1 * rng.standard_normal((1, length, 1), np.float32))
  frames = jax.eval_shape(jaxcodec.encode, codec, x).shape[1]
  sizes = module.codebook_sizes
  codes = jnp.stack([rng.integers(0, size, (1, frames), np.int32) for size in sizes], axis=-1)
  encode = jax.jit(jaxcodec.encode).lower(codec, x).compile()
  decode = jax.jit(jaxcodec.decode).lower(codec, codes).compile()
  terminal.say("compiled")
  seconds, quick, taken = length / module.sample_rate, [], []
  for run in (functools.partial(encode, codec, x), functools.partial(decode, codec, codes)):
    times: list[float] = []
    worked: list[float] = []
    while len(times) < RUNS and sum(times) < LIMIT:
      start, before = time.perf_counter(), time.process_time()
      run().block_until_ready()
      times.append(time.perf_counter() - start)
      worked.append(time.process_time() - before)
    quick.append(seconds / min(times))
    taken.append(min(worked) / seconds)
  return *quick, *taken


def work(module, length: int) -> tuple[float, float]:
  """GFLOP a second of sound."""
  codec, x = shapes_of(module), jax.ShapeDtypeStruct((1, length, 1), jnp.float32)
  codes = jax.eval_shape(jaxcodec.encode, codec, x)
  traced = jax.make_jaxpr(jaxcodec.encode)(codec, x), jax.make_jaxpr(jaxcodec.decode)(codec, codes)
  scale = 1e-9 * module.sample_rate / length
  encode, decode = (scale * operations.flops(found.jaxpr) for found in traced)
  return encode, decode


def compile_seconds(module, length: int) -> tuple[float, float]:
  """Seconds that the TPU compiler took for each half."""
  from jax.sharding import SingleDeviceSharding

  from jaxcodec.training import topology

  place = SingleDeviceSharding(topology.slice_of("v5e:1x1").devices[0])

  def placed(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

  codec = shapes_of(module)
  x = jax.ShapeDtypeStruct((1, length, 1), jnp.float32)
  codes = jax.eval_shape(jaxcodec.encode, codec, x)
  found = []
  for function, array in ((jaxcodec.encode, x), (jaxcodec.decode, codes)):
    start = time.perf_counter()
    topology.compiled(jax.jit(function).lower(placed(codec), placed(array)))
    found.append(time.perf_counter() - start)
  return found[0], found[1]


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
