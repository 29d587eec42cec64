"""Kernels beside plain jitted JAX and PyTorch on this machine, and as the TPU compilers see them.

Command: python benchmarks/kernels.py [--only NAME ...] [--size TEXT] [--forms NAME ...] [--runs 5]
    [--busy] [--memory] [--no-tpu] [--no-host]
On a GPU: JAX_PLATFORMS=cuda python benchmarks/kernels.py --gpu [the first four]

On the host, runs alternate and figures are medians; the ratio is to the time of the first form,
ours. The share is that of the roofline's time: the longer of the op's FLOPs at the machine's peak
and of its bytes, inputs and outputs once, at its bandwidth, both measured first. What stays in
cache from call to call can be above one. --memory prints instead what one process of its own takes
at its peak beyond the inputs. On a busy machine the clock says little: --busy prints the
processor's time, of all threads.

For TPUs nothing runs: VMEM, FLOPs and bytes come from the compiled program, and the roofline's
estimate is the longer of FLOPs at the chip's peak and bytes at its bandwidth, which no kernel
reaches. Needs torch, and libtpu; tokamax where it is installed.

On a GPU, --gpu first compares every GPU kernel with its reference, and ends there if one is wrong;
then it times them beside plain JAX and peers at the sizes of the goals. The share is that of the
roofline's time, the longer of FLOPs at the card's peak and bytes at its bandwidth, both counted by
hand. A peer that is not installed, or does not run, says why. Last comes what became of each goal.
"""

import argparse
import concurrent.futures
import functools
import importlib
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "tests"))

GROUPS = ("vector", "rans", "attention", "low_bit", "peers")

# Of one device: 10^12 operations/s of each kind and 10^9 bytes/s. The makers' published figures; a
# device of tpu7x is half a chip, and int8 is not among its figures: taken as bfloat16.
PEAKS = {
  "v5e": {"bfloat16": 197, "int8": 394, "bytes": 819},
  "v5p": {"bfloat16": 459, "int8": 918, "bytes": 2765},
  "v6e": {"bfloat16": 918, "int8": 1836, "bytes": 1640},
  "tpu7x": {"bfloat16": 1153, "int8": 1153, "bytes": 3690},
}


def cases(kind: str, only: list[str] | None, size: str) -> list:
  modules = [importlib.import_module(f"kernel_cases.{group}") for group in GROUPS]
  found = [case for module in modules for case in getattr(module, kind)()]
  return [case for case in found if (not only or case.op in only) and size in case.size]


def machine() -> tuple[float, float]:
  """The most operations on float32 and bytes a second of this machine, of several ways to get them.

  A product of 2048 x 2048, and the sum of 256 MB.
  """
  import jax
  import jax.numpy as jnp
  import torch

  x, y = torch.randn(2048, 2048), torch.randn(1 << 26)
  a, b = jnp.asarray(x.numpy()), jnp.asarray(y.numpy())
  product, total = jax.jit(jnp.matmul), jax.jit(jnp.sum)

  def least(*calls):
    spent = []
    for call in calls:
      call()
      for _ in range(10):
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return min(spent)

  flops = 2 * 2048**3 / least(lambda: x @ x, lambda: product(a, a).block_until_ready())
  return flops, 4 * (1 << 26) / least(lambda: y.sum(), lambda: total(b).block_until_ready())


def times(case, runs: int, clock: Callable[[], float]) -> dict[str, float]:
  """Median milliseconds of each form, in turns, but for peers that are not installed."""
  calls = {}
  for name, make in case.forms.items():
    try:
      calls[name] = make()
    except ModuleNotFoundError as error:
      print(f"{case.op}, {name}: {error}", file=sys.stderr)
  for call in calls.values():
    call()
  spent: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(runs):
    for name, call in calls.items():
      start = clock()
      call()
      spent[name].append(1e3 * (clock() - start))
  return {name: statistics.median(values) for name, values in spent.items()}


def peak_megabytes(op: str, size: str, form: str) -> float:
  """What a form takes beyond its inputs, measured in a process of its own."""
  command = [sys.executable, __file__, "--peak-of", op, size, form]
  return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(op: str, size: str, form: str) -> None:
  (case,) = [case for case in cases("host_cases", [op], size) if case.size == size]
  call = case.forms[form]()
  # The most so far would hide less than what making the inputs took.
  pathlib.Path("/proc/self/clear_refs").write_text("5")
  before = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
  call()
  status = pathlib.Path("/proc/self/status").read_text()
  peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
  print((peak - before) / 1e6)


def chosen(only: list[str] | None, size: str, forms: list[str] | None):
  for case in cases("host_cases", only, size):
    if forms:
      case = case._replace(forms={name: f for name, f in case.forms.items() if name in forms})
    yield case


def memory_table(only: list[str] | None, size: str, forms: list[str] | None) -> None:
  print("| kernel | size | form | MB |")
  print("|---|---|---|---:|")
  for case in chosen(only, size, forms):
    for form in case.forms:
      peak = peak_megabytes(case.op, case.size, form)
      print(f"| {case.op} | {case.size} | {form} | {peak:.0f} |", flush=True)


def host_table(
  only: list[str] | None, size: str, forms: list[str] | None, runs: int, busy: bool
) -> None:
  peak, bandwidth = machine()
  print(f"This machine: {peak / 1e9:.0f} GFLOP/s of float32, {bandwidth / 1e9:.1f} GB/s\n")
  print("| kernel | size | form | ms | ratio | share of the roofline |")
  print("|---|---|---|---:|---:|---:|")
  for case in chosen(only, size, forms):
    spent = times(case, runs, time.process_time if busy else time.perf_counter)
    least = 1e3 * max(case.flops / peak, case.moved / bandwidth)
    for form, value in spent.items():
      share = "" if busy else f"{least / value:.0%}"
      row = f"{value:.2f} | {value / next(iter(spent.values())):.2f} | {share}"
      print(f"| {case.op} | {case.size} | {form} | {row} |", flush=True)


def tpu_table(only: list[str] | None, size: str) -> None:
  import tpu_topologies as topologies

  print("| kernel | size | TPU | VMEM, MB | GFLOP | MB moved | at least, ms | bound by |")
  print("|---|---|---|---:|---:|---:|---:|---|")
  for case in cases("tpu_cases", only, size):
    for generation, peaks in PEAKS.items():
      compiled = topologies.compile_for(generation, case.function, *case.shapes)
      # A kernel of others may state neither.
      cost = {"flops": 0.0, "bytes accessed": 0.0} | compiled.cost_analysis()
      if case.counted:
        cost |= zip(("flops", "bytes accessed"), case.counted, strict=True)
      vmem = topologies.vmem_bytes(compiled) / 1e6
      products = 1e3 * cost["flops"] * case.passes / (1e12 * peaks[case.kind])
      traffic = 1e3 * cost["bytes accessed"] / (1e9 * peaks["bytes"])
      bound = "products" if products > traffic else "bandwidth"
      figures = f"{vmem:.1f} | {cost['flops'] / 1e9:.0f} | {cost['bytes accessed'] / 1e6:.0f}"
      least = max(products, traffic)
      row = f"{generation} | {figures} | {least:.2f} | {bound}"
      print(f"| {case.op} | {case.size} | {row} |", flush=True)


def gpu_checks() -> None:
  from kernel_cases import on_gpu

  def tried(check) -> tuple[float, str]:
    try:
      error = on_gpu.error_of(check)
      return error, f"{error:.2g}"
    except Exception as error:  # Of any kind: all kernels are to be seen before this ends.
      return float("nan"), " ".join(repr(error).split())[:300]

  print("| kernel | largest error | at most |")
  print("|---|---:|---:|")
  checks, wrong = on_gpu.checks(), 0
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for check, (error, said) in zip(checks, pool.map(tried, checks), strict=True):
      # Not the reverse: an error of NaN is one.
      wrong += not error <= check.most
      print(f"| {check.name} | {said} | {check.most:g} |", flush=True)
  if wrong:
    sys.exit(f"{wrong} kernels are wrong")


def gpu_table(only: list[str] | None, size: str, forms: list[str] | None, runs: int) -> None:
  import jax
  from kernel_cases import on_gpu

  kind = jax.devices()[0].device_kind
  card = next((name for name in on_gpu.CARDS if name in kind), None)
  print(f"\n{kind}, jax {jax.__version__}\n")
  chosen = [c for c in on_gpu.cases() if (not only or c.op in only) and size in c.size]
  # Compiling takes most of the time, so all of it comes first, side by side.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    programs = {
      (case.op, case.size, name): pool.submit(gpu_program, function, case.make, name, case.calls)
      for case in chosen
      for name, (function, _, _) in case.forms.items()
      if not forms or name in forms
    }
  print("| kernel | size | form | ms | ratio | share of the roofline |")
  print("|---|---|---|---:|---:|---:|")
  said: list[str] = []
  for case in chosen:
    taken: dict[str, float] = {}
    reached = None
    for name, (_, flops, moved) in case.forms.items():
      if forms and name not in forms:
        continue
      try:
        program = programs[case.op, case.size, name].result()
        spent = gpu_time(program, case.make(name), case.calls, runs)
      except Exception as error:  # What a peer raises is its own, and its row tells it.
        if name in ("kernel", "plain JAX"):
          raise
        print(f"| {case.op} | {case.size} | {name} | {' '.join(repr(error).split())[:80]} | | |")
        continue
      taken[name] = spent
      share = None
      if card:
        peak, bandwidth = on_gpu.CARDS[card]
        share = max(flops / (1e12 * peak), moved / (1e9 * bandwidth)) / spent
      reached = share if name == "kernel" else reached
      row = f"{1e3 * spent:.3f} | {spent / next(iter(taken.values())):.2f}"
      known = "not known" if share is None else f"{share:.0%}"
      print(f"| {case.op} | {case.size} | {name} | {row} | {known} |", flush=True)
    said += [f"{case.op}, {case.size}: {x}" for x in on_gpu.verdicts(case, taken, reached)]
  print("", "Goals, which are for an H200; a kernel below 1x of plain JAX goes:", *said, sep="\n")


def gpu_program(function: Callable, make: Callable, form: str, calls: int) -> Callable:
  """`calls` calls, compiled."""
  import jax

  def program(first, *rest):
    for _ in range(calls):
      y = function(first, *rest)
      # The next call waits for this one; 0 * y is not known to be 0.
      first = first + 0 * y if calls > 1 else y
    return first

  return jax.jit(program).lower(*jax.eval_shape(functools.partial(make, form))).compile()


def gpu_time(program: Callable, given: tuple, calls: int, runs: int) -> float:
  """Median seconds of a call."""
  import jax

  jax.block_until_ready(program(*given))
  spent = []
  for _ in range(runs):
    start = time.perf_counter()
    jax.block_until_ready(program(*given))
    spent.append((time.perf_counter() - start) / calls)
  return statistics.median(spent)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", nargs="*")
  parser.add_argument("--size", default="", help="part of a size; all that have it")
  parser.add_argument("--forms", nargs="*", help="columns to run; all if none is named")
  parser.add_argument("--runs", type=int, default=5)
  parser.add_argument("--busy", action="store_true", help="processor time, and no shares")
  parser.add_argument("--memory", action="store_true", help="memory of the host, and no times")
  parser.add_argument("--no-host", action="store_true")
  parser.add_argument("--no-tpu", action="store_true")
  parser.add_argument("--gpu", action="store_true", help="check and time the GPU kernels, no other")
  parser.add_argument("--peak-of", nargs=3, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.peak_of:
    print_peak(*options.peak_of)
    return
  if options.gpu:
    gpu_checks()
    gpu_table(options.only, options.size, options.forms, options.runs)
    return
  if options.memory:
    memory_table(options.only, options.size, options.forms)
    return
  if not options.no_host:
    host_table(options.only, options.size, options.forms, options.runs, options.busy)
  if not options.no_tpu:
    tpu_table(options.only, options.size)


if __name__ == "__main__":
  main()
