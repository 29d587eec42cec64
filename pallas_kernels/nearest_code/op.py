"""Nearest codebook entry: argmin_k |z - e_k|^2, or the smallest angle.

Numerics: float32 whatever the inputs are; ties go to the lowest index.
"""

import functools
import math
from typing import Literal, get_args

import jax

from pallas_kernels.dispatch import dispatch
from pallas_kernels.nearest_code import gpu, ranked, reference, tiled, tpu

Metric = Literal["l2", "cosine"]
Scoring = Literal["float32", "bfloat16", "int8"]
Backend = Literal["reference", "tiled", "tpu", "interpret", "gpu", "interpret_gpu"]

# On a CPU a tile's scores stay in the cache, 4 MB of them; fewer than _FEW_SCORES are one tile.
_TILE_ROWS, _TILE_ENTRIES, _FEW_SCORES = 1024, 1024, 1 << 22
# On a GPU fewer scores than these are sooner made all at once.
_GPU_SCORES = 1 << 25
# Elsewhere as many scores as are held at once, 256 MB of them.
_SCORES = 1 << 26


def nearest_code(
  z: jax.Array,
  codebook: jax.Array,
  *,
  metric: Metric = "l2",
  scoring: Scoring = "float32",
  candidates: int = 4,
  backend: Backend | None = None,
) -> jax.Array:
  """Index of the entry nearest to each vector, in memory that does not grow with N times K.

  Args:
    z: `[*N, D]` vectors, any float type.
    codebook: `[K, D]` entries.
    metric: "l2" for the least distance, "cosine" for the smallest angle.
    scoring: in what type a kernel may look for the nearest few, which it then ranks in float32. A
      lower type is quicker, and misses the nearest where `candidates` others seem nearer, or one
      whose index is the same modulo 128. Where there is no kernel all is done in float32.
    candidates: how many are ranked again, 1 to 128.
    backend: None picks one by platform, see `pallas_kernels.dispatch`; "tpu" and "gpu" are the
      kernels there, "interpret" and "interpret_gpu" the same on any platform, for tests.

  Returns:
    int32 `[*N]`, each in `[0, K)`; it carries no gradient. A row with a NaN gets 0.

  Raises:
    ValueError: if the feature sizes differ, the codebook is empty, an option is none of these or
      the backend asked for takes no codebook of this shape.
  """
  _check(z, codebook, metric, scoring, candidates, backend)
  # Integers have no gradient, and without this the primitive that picks a backend is asked for one.
  z, codebook = jax.lax.stop_gradient((z, codebook))
  rows = z.reshape(math.prod(z.shape[:-1]), z.shape[-1])
  codes = _search(rows, codebook, metric, scoring, candidates, backend)
  return codes.reshape(z.shape[:-1])


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _search(z, codebook, metric, scoring, candidates, backend):
  cpu = functools.partial(_cpu, metric=metric)
  options = {"metric": metric, "scoring": scoring, "candidates": candidates}

  def kernel(module, **how):
    search = functools.partial(module.search, **how)
    return functools.partial(ranked.nearest_code, **options, search=search)

  forms = {
    "reference": functools.partial(reference.nearest_code, metric=metric),
    "tiled": functools.partial(
      tiled.nearest_code, metric=metric, rows=_TILE_ROWS, entries=_TILE_ENTRIES
    ),
    "tpu": kernel(tpu),
    "interpret": kernel(tpu, interpret=True),
    "gpu": kernel(gpu),
    "interpret_gpu": kernel(gpu, interpret=True),
  }
  if backend is not None:
    return forms[backend](z, codebook)
  tpu_form = _one(forms["tpu"]) if tpu.fits(codebook) else None
  gpu_form = _one(forms["gpu"]) if len(z) * len(codebook) >= _GPU_SCORES else None
  (codes,) = dispatch(
    z,
    codebook,
    plain=_one(functools.partial(plain, metric=metric)),
    cpu=_one(cpu),
    tpu=tpu_form,
    gpu=gpu_form,
  )
  return codes


def _one(form):
  return lambda *arrays: (form(*arrays),)


def _cpu(z, codebook, metric):
  rows, entries = z.shape[0], codebook.shape[0]
  if rows * entries > _FEW_SCORES:
    rows, entries = _TILE_ROWS, _TILE_ENTRIES
  return tiled.nearest_code(z, codebook, metric, rows, entries)


def plain(z, codebook, metric):
  """The nearest in plain JAX for any device, or many."""
  rows, entries = z.shape[0], codebook.shape[0]
  if rows * entries <= _SCORES:
    return reference.nearest_code(z, codebook, metric)
  # All rows at once, so that the compiler can split them over devices; entries as well.
  return tiled.interleaved(z, codebook, metric, max(_SCORES // rows, 128))


def _check(z, codebook, metric, scoring, candidates, backend) -> None:
  if codebook.ndim != 2 or 0 in codebook.shape:
    raise ValueError(f"codebook must be [K, D] with K and D >= 1, got shape {codebook.shape}")
  if z.ndim == 0:
    raise ValueError(f"z must be [*N, D], got shape () for codebook {codebook.shape}")
  if z.shape[-1] != codebook.shape[-1]:
    raise ValueError(f"z has {z.shape[-1]} features, codebook has {codebook.shape[-1]}")
  options: dict[str, tuple[object, tuple]] = {
    "metric": (metric, get_args(Metric)),
    "scoring": (scoring, get_args(Scoring)),
    "backend": (backend, (None, *get_args(Backend))),
  }
  for name, (value, known) in options.items():
    if value not in known:
      raise ValueError(f"{name} must be one of {known}, got {value!r}")
  if backend in ("tpu", "interpret") and not tpu.fits(codebook):
    raise ValueError(f"codebook {codebook.shape} is none that the kernel takes")
  if not 1 <= candidates <= tpu.CLASSES:
    raise ValueError(f"candidates must be 1 to {tpu.CLASSES}, got {candidates}")
