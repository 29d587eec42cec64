"""The GPU compiler on a machine without GPUs: programs lowered, and compiled for an H200.

Lowering needs jax alone. Compiling needs jax's plugin for CUDA (`pip install jax-cuda12-plugin
jax-cuda12-pjrt nvidia-cuda-nvcc-cu12`, of the installed jax's version): a kernel that overflows
shared memory, or that Triton cannot compile, fails. Nothing runs.
"""

import contextlib
import warnings

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding

TARGET = "__gpu$xla.gpu.triton"
# Facts of an H200 that the compiler asks for.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: 4800000000000 device_memory_size: 151397597184 l2_cache_size: 52428800
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  name: "NVIDIA H200" model_str: "sm_9.0a" device_vendor: "NVIDIA Corporation"
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0" device_address_bits: 64
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H200"
"""


def lowered(function, *shapes) -> str:
  """The program that `function` is on a GPU, as text."""
  with _on_h200():
    traced = jax.jit(function).trace(*shapes)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def compile_for_h200(function, *shapes):
  """`function` compiled for an H200; the test is skipped where jax's plugin is not installed."""
  pytest.importorskip("jax_plugins.xla_cuda12", reason="compiles for GPUs with jax's CUDA plugin")
  from jax.experimental import topologies

  topology = topologies.get_topology_desc(
    "h200", platform="cuda", topology="1x1x1", target_config=H200
  )
  place = SingleDeviceSharding(topology.devices[0])
  placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
  with _on_h200():
    return jax.jit(function).lower(*placed).compile()


def kernels(program: str) -> int:
  """How many Pallas kernels a program's text calls."""
  return program.count(f"@{TARGET}(") + program.count(f'custom_call_target="{TARGET}"')


@contextlib.contextmanager
def _on_h200():
  """Since 0.11 jax asks which GPU a kernel is for, and warns that Triton's turn will end."""
  device = AbstractDevice("NVIDIA H200", None, "gpu")
  mesh = AbstractMesh((), (), (), abstract_device=device)
  with jax.sharding.use_abstract_mesh(mesh), warnings.catch_warnings():
    warnings.filterwarnings("ignore", "The Pallas Triton backend", DeprecationWarning)
    yield
