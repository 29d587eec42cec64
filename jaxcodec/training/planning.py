"""What the TPU compiler makes of a program: all of it, or all but the code.

Generating code takes nine tenths of the compiler's time, and nothing of it is in memory, work or
collectives but the code's own size. The compiler has no way to leave it out; what it has decided
by then it writes to a folder where it is asked to.
"""

import math
import pathlib
import re
import tempfile
import threading
from typing import NamedTuple

import jax
from jax._src import config
from jaxlib import xla_client

from jaxcodec.training import topology


class Program(NamedTuple):
  """A program for one chip.

  Attributes:
    text: its HLO, scheduled.
    num_bytes: in the chip's memory at once.
    flops: as XLA counts them.
  """

  text: str
  num_bytes: int
  flops: float


def compiled(lowered, *, quick: bool = False) -> Program:
  """All of it, as `topology.compiled`."""
  program = topology.compiled(lowered, quick=quick)
  memory = program.memory_analysis()
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
  num_bytes = held + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
  return Program(program.as_text(), num_bytes, program.cost_analysis()["flops"])


def planned(lowered, *, quick: bool = False) -> Program:
  """As `compiled`, before code is generated; `num_bytes` is without it.

  A thread goes on with the code until it is there or the process ends.
  """
  failed: list[Exception] = []

  def compile_into(folder):
    options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    try:
      # Of this thread, which may end after `effort` has.
      with config.persistent_cache_min_compile_time_secs(math.inf):
        lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
      failed.append(error)

  # The thread still writes there.
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, topology.effort(quick):
    thread = threading.Thread(target=compile_into, args=(folder,), daemon=True)
    thread.start()
    written = None
    while written is None and thread.is_alive():
      thread.join(0.2)
      written = _written(pathlib.Path(folder))
  if written is None:
    raise failed[0] if failed else RuntimeError("the compiler wrote no program")
  text, memory = written
  module = xla_client.hlo.hlo_module_from_text(text)
  costs = xla_client._xla.hlo_module_cost_analysis(jax.devices("cpu")[0].client, module)
  found = re.search(r"Memory Space: default .*\nTotal bytes: (\d+)", memory)
  if found is None:
    raise RuntimeError(f"the compiler's report of memory begins with {memory[:80]!r}")
  return Program(text, int(found[1]), costs["flops"])


def _written(folder: pathlib.Path) -> tuple[str, str] | None:
  """The program's text and the report of its memory, once both are whole."""
  # Before it generates code the compiler writes this one last.
  for path in folder.glob("*after_optimizations_after_buffer_assignment.txt"):
    text = path.read_text()
    if "\nENTRY" in text and text.endswith("\n}\n\n"):
      return text, next(folder.glob("*memory-usage-report.txt")).read_text()
  return None
