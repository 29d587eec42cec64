"""Exact softmax attention whose score matrix is never in memory as a whole, on TPU.

Elsewhere XLA computes a few blocks of queries one after the other, each with the keys that the mask
allows at most; on one CPU, a head after the other. Gradients recompute the weights from the
log-sum-exp of each row.
Numerics: scores, softmax and sums in float32; float32 inputs are multiplied in full precision.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from pallas_kernels.attention import cpu, cudnn, gpu, masks, plain, reference, tpu
from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.reference import Rule
from pallas_kernels.backend import GPU, WithGpu, interpret
from pallas_kernels.dispatch import dispatch


def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  mask: masks.Mask | None = None,
  bias: jax.Array | Alibi | None = None,
  scale: float | None = None,
  soft_cap: float | None = None,
  backend: WithGpu | Literal["plain"] | None = None,
) -> jax.Array:
  """Softmax attention; a query that sees no key gets 0, and gives no gradient.

  Scores are scale * q . k + bias, then, with a soft cap c, c * tanh(score / c), then masked. On
  several TPUs the kernel runs within a `jax.shard_map`, over batch or heads for instance.

  Args:
    q: `[B, Tq, H, D]`, any float type.
    k, v: `[B, Tk, H / G, D]` of the type of `q`; G query heads share a head of keys and values.
    mask: which keys a query sees, of `Causal`, `Window`, `Chunked`, `Lengths`, `Segments` and
      `Arrow` joined by `&` and `|`; None for all. What it hides must still be finite.
    bias: `[1 or B, 1 or H, Tq, Tk]`, with a gradient; or `Alibi`, which takes no memory.
    scale: of the products; D ** -0.5 if None.
    soft_cap: as above; None for none.
    backend: None picks one for each platform: a kernel on TPU and GPU, cuDNN's where it takes the
      call, and blocks in plain JAX elsewhere; see `pallas_kernels.dispatch`. "gpu" is our kernel
      there, "plain" those blocks.

  Returns:
    `[B, Tq, H, D]` in the type of `q`.

  Source: Dao, https://arxiv.org/abs/2307.08691, section 3.1.

  Raises:
    ValueError: if shapes or types do not fit.
  """
  _check(q, k, v, mask, bias)
  if soft_cap is not None and soft_cap <= 0:
    raise ValueError(f"soft_cap must be positive, got {soft_cap}")
  rule = Rule(q.shape[-1] ** -0.5 if scale is None else float(scale), soft_cap)
  if isinstance(bias, Alibi):
    bias = Alibi(jax.lax.stop_gradient(bias.slopes), bias.offset)
  if backend == "reference" or q.size == 0 or k.size == 0:
    return reference.attention(q, k, v, bias, mask, rule=rule)
  if backend is None and cudnn.takes(q, k, bias, mask, rule):
    theirs = functools.partial(cudnn.attention, mask=mask, rule=rule)
    return jax.lax.platform_dependent(
      q, k, v, cuda=theirs, default=lambda q, k, v: _attention(q, k, v, bias, mask, rule, backend)
    )
  return _attention(q, k, v, bias, mask, rule, backend)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attention(q, k, v, bias, mask, rule, backend):
  """Gradient: that of softmax attention; none to the arrays of a mask or to ALiBi's slopes."""
  return _attention_fwd(q, k, v, bias, mask, rule, backend)[0]


def _attention_fwd(q, k, v, bias, mask, rule, backend):
  y, lse = _on(backend, "forward", rule, q, k, v, bias, mask)
  return y, (q, k, v, bias, mask, y, lse)


def _attention_bwd(rule, backend, residuals, dy):
  dq, dk, dv, *dbias = _on(backend, "backward", rule, *residuals, dy)
  dbias = dbias[0] if dbias else None
  return dq, dk, dv, dbias, None


_attention.defvjp(_attention_fwd, _attention_bwd)


def _on(backend, name, rule, *args):
  if backend == "plain":
    return getattr(plain, name)(*args, rule=rule)
  if backend in GPU:
    return getattr(gpu, name)(*args, rule=rule, interpret=GPU[backend])
  if backend is not None:
    return getattr(tpu, name)(*args, rule=rule, interpret=interpret(backend, WithGpu))
  arrays, structure = jax.tree.flatten(args)
  forms = _forms(name, rule, structure)
  return dispatch(*arrays, **(forms if gpu.fits(args[0]) else forms | {"gpu": None}))


@functools.cache
def _forms(name, rule, structure):
  """Each platform's form on flat arrays; cached, so that one program serves equal calls."""

  def form(module):
    def run(*arrays):
      out = getattr(module, name)(*jax.tree.unflatten(structure, arrays), rule=rule)
      return tuple(x for x in out if x is not None)

    return run

  return {"tpu": form(tpu), "gpu": form(gpu), "cpu": form(cpu), "plain": form(plain)}


def _check(q, k, v, mask, bias):
  if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape:
    raise ValueError(f"q, k, v must be [B, T, H, D], got {q.shape}, {k.shape}, {v.shape}")
  batch, queries, heads, features = q.shape
  if k.shape[0] != batch or k.shape[3] != features or not k.shape[2] or heads % k.shape[2]:
    raise ValueError(f"keys {k.shape} do not fit queries {q.shape}")
  if not q.dtype == k.dtype == v.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
    raise ValueError(f"q, k, v must be of one float type, got {q.dtype}, {k.dtype}, {v.dtype}")
  if isinstance(bias, Alibi):
    if bias.slopes.shape != (heads,):
      raise ValueError(f"ALiBi needs {heads} slopes, got shape {bias.slopes.shape}")
  elif bias is not None:
    fits = bias.ndim == 4 and bias.shape[2:] == (queries, k.shape[1])
    if not fits or bias.shape[0] not in (1, batch) or bias.shape[1] not in (1, heads):
      raise ValueError(f"bias {bias.shape} does not fit queries {q.shape} and keys {k.shape}")
  masks.check(mask, batch, queries, k.shape[1])
