"""The TPU compiler on a machine without TPUs: programs compiled for four generations.

Needs the package libtpu of the installed jax (`jax[tpu]`). A kernel that overflows VMEM or that
Mosaic cannot lower fails to compile. Nothing runs.
"""

import os
import re

import jax
import pytest
from jax.sharding import SingleDeviceSharding

from jaxcodec.training.topology import ENVIRONMENT, compiled

GENERATIONS = {
  "v5e": "v5e:2x2",
  "v5p": "v5p:2x2x1",
  "v6e": "v6e:2x2",
  "tpu7x": "tpu7x:2x2x1",
}


def devices(generation: str) -> list:
  """Devices to compile for; the test is skipped where the package libtpu is not installed."""
  pytest.importorskip("libtpu", reason="compiles for TPU with libtpu, for Linux on x86-64 alone")
  os.environ.update(ENVIRONMENT)
  from jax.experimental import topologies

  return topologies.get_topology_desc(GENERATIONS[generation], platform="tpu").devices


def compile_for(generation: str, function, *shapes):
  """`function` compiled for one device; `shapes` are pytrees of what has a shape and a dtype."""
  place = SingleDeviceSharding(devices(generation)[0])
  placed = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tuple(shapes)
  )
  return compiled(jax.jit(function).lower(*placed))


def kernels(compiled) -> list[str]:
  """The instructions of the compiled program that are Pallas kernels."""
  # What others write beside their kernels may have several lines.
  instructions = re.split(r"\n\s*(?=(?:ROOT )?%)", compiled.as_text())
  return [text for text in instructions if '"tpu_custom_call"' in text]


def vmem_bytes(compiled) -> int:
  """The most VMEM that a kernel of the program takes for its blocks and scratch."""
  pattern = r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"\d+","size":"(\d+)"'
  sizes = [int(size) for line in kernels(compiled) for size in re.findall(pattern, line)]
  return max(sizes, default=0)
