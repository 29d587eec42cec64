"""Eight CPU devices, a cache of compiled functions, and the real data."""

import importlib.metadata
import itertools
import os
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]

# All of it must stand before jax starts.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
# There is a worker for every core: more threads of OpenMP (PyTorch) would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A thread waits in each of a device's collectives, and those of one device need not come in the
# order of another's: with a thread for each device all may wait for ever.
os.environ.setdefault("PJRT_NPROC", "64")
# And many programs of which each is small: nothing is won by splitting one.
_FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_cpu_parallel_codegen_split_count=1"]
if importlib.metadata.version("jax").startswith("0.10."):
  # The emitters that later ones lack compile in half of the time.
  _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
for _flag in _FLAGS:
  if _flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}".strip()


@pytest.fixture(scope="session")
def data() -> pathlib.Path:
  """The folder of real data: `JAXCODEC_DATA`, or `shared/data` beside the checkout."""
  folder = pathlib.Path(os.environ.get("JAXCODEC_DATA", _ROOT.parent / "shared" / "data"))
  if not folder.is_dir():
    pytest.skip(f"no data at {folder}; JAXCODEC_DATA names the folder that holds it")
  return folder


def pytest_collection_modifyitems(items):
  """Files that take long come first, so that the last ones, one a worker, are short."""
  order = {}
  for item in items:
    weight = 30 if item.get_closest_marker("slow") or item.get_closest_marker("parity") else 1
    order[item.path] = order.get(item.path, 0) + weight
  items.sort(key=lambda item: order[item.path], reverse=True)


@pytest.fixture(scope="module", autouse=True)
def _optimizations(request):
  """Programs, and those of processes that are started, are compiled quickly but where it matters.

  Most tests compile far longer than they run. What is marked `optimized` and what is compared with
  other implementations is optimized.
  """
  import jax

  marks = ("optimized", "parity")
  disabled = not any(request.node.get_closest_marker(mark) for mark in marks)
  os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(disabled))
  if jax.config.read("jax_disable_most_optimizations") != disabled:
    jax.config.update("jax_disable_most_optimizations", disabled)
    jax.clear_caches()


_modules = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
  """Compiled programs do not stay for long: a worker would grow by gigabytes."""
  yield
  import jax

  if next(_modules) % 6 == 0:
    jax.clear_caches()


@pytest.fixture(scope="session")
def mesh():
  """A mesh of eight devices along `data`."""
  import jax

  if jax.device_count() < 8:
    pytest.skip(f"needs 8 devices, there are {jax.device_count()}")
  return jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:8]
  )
