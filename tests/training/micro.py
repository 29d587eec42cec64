"""The smallest run that has every part: three layers a side, waves of 64 samples."""

import dataclasses
import functools
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import soundfile
from jax.sharding import NamedSharding, PartitionSpec as P

from jaxcodec.audio.encodec import Encodec
from jaxcodec.data.sound import Sound
from jaxcodec.layers.seanet import SEANetConfig
from jaxcodec.training import sharding
from jaxcodec.training.config import Adam, LearningRate, Losses, Mesh, Quantization, Train
from jaxcodec.training.state import TrainState, init_state
from jaxcodec.training.step import train_step

NET = SEANetConfig(
  num_filters=2,
  strides=(4,),
  dimension=4,
  num_residual_layers=0,
  num_lstm_layers=0,
  kernel_size=3,
  last_kernel_size=3,
  pad_mode="zero",
)
CODEC = Encodec(net=NET, sample_rate=8000, num_codebooks=2, codebook_size=8, bitrates=(12_000,))


def get_config() -> Train:
  """For `launch.train`: long enough to be killed on the way."""
  return config(num_steps=300, save_every=20)


def config(**changes) -> Train:
  base = Train(
    name="micro",
    codec=CODEC,
    data=Sound(segment_seconds=0.008),
    batch_size=8,
    num_steps=6,
    optimizer=Adam(rate=LearningRate(peak=1e-2)),
    losses=Losses(l1=1.0),
    quantization=Quantization(active_choices=(1, 2), dead_share=0.1, restart_every=2),
    mesh=Mesh(fsdp_smallest=1),
    save_every=2,
    log_every=1,
  )
  return dataclasses.replace(base, **changes)


def batch(seed: int = 0, rows: int = 8) -> np.ndarray:
  return np.random.default_rng(seed).normal(0, 0.1, (rows, 64, 1)).astype(np.float32)


def write_sounds(folder) -> str:
  """Three short files of noise at 8 and 11.025 kHz."""
  rng = np.random.default_rng(0)
  for name, rate in (("a", 8000), ("b", 8000), ("c", 11_025)):
    soundfile.write(folder / f"{name}.wav", rng.normal(0, 0.1, rate // 4), rate)
  return str(folder)


def with_sounds(config: Train, folder: str) -> Train:
  return dataclasses.replace(config, data=dataclasses.replace(config.data, sources=(folder,)))


def two_processes(arguments, devices: int) -> list[subprocess.Popen]:
  """Two `one_process.py` with `devices` each; `arguments` gives the i-th one's after its index."""
  here = pathlib.Path(__file__).resolve().parent
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
  path = os.pathsep.join([str(here), str(here.parents[1])])
  environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path}
  command = [sys.executable, str(here / "one_process.py"), str(port)]
  return [
    subprocess.Popen(
      [*command, str(i), *arguments(i)], env=environment, stderr=subprocess.PIPE, text=True
    )
    for i in range(2)
  ]


# A CPU takes longer to optimize these programs than to run them.
QUICK = {"xla_backend_optimization_level": 0}


@functools.cache
def start() -> TrainState:
  """The state before the first step, as NumPy arrays, made on one device."""
  init = jax.jit(functools.partial(init_state, config=config()), compiler_options=QUICK)
  with jax.default_device(jax.local_devices()[0]):
    return jax.tree.map(np.asarray, init(jax.random.key(0)))


def run_steps(mesh: Mesh, devices, steps: int = 20) -> tuple[np.ndarray, np.ndarray]:
  """The losses of some steps on a mesh, and the codebooks after them."""
  run = config(mesh=mesh)
  made = sharding.make_mesh(run.mesh, devices)
  shardings = sharding.state_shardings(start(), made, run.mesh)

  def put(array, sharding):
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

  state = jax.tree.map(put, start(), shardings)
  place, whole = sharding.batch_sharding(made), NamedSharding(made, P())
  step = jax.jit(
    functools.partial(train_step, config=run),
    donate_argnums=0,
    in_shardings=(shardings, place, None),
    out_shardings=(shardings, whole),
    compiler_options=QUICK,
  )
  losses, key = [], jax.random.key(0)
  for i in range(steps):
    state, metrics = step(state, put(batch(i), place), key)
    losses.append(float(metrics["l1"]))
  gather = jax.jit(lambda x: x, out_shardings=whole)
  return np.asarray(losses), np.asarray(gather(state.params["quantizer"]["codebooks"]))
