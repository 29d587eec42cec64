"""Attention beside the TPU kernels that come with jax, interpreted, with gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu import flash_attention, splash_attention

from pallas_kernels import Causal, Segments, Window, attention

pytestmark = pytest.mark.parity

B, T, H, G, D = 1, 256, 4, 2, 128


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_gradient(attend, weights):
  def loss(*args):
    y = attend(*args)
    return (y * weights).sum(), y

  return jax.jit(lambda *args: jax.grad(loss, (0, 1, 2), has_aux=True)(*args))


def test_it_is_jaxs_flash_attention():
  q, k, v, weights = (normal(B, T, 1, D, seed=s) for s in range(4))
  ids = np.sort(np.random.default_rng(4).integers(0, 3, (B, T)), axis=1).astype(np.int32)

  def theirs(*heads_last):
    heads_first = (jnp.swapaxes(x, 1, 2) for x in heads_last)
    segments = flash_attention.SegmentIds(ids, ids)
    attend = functools.partial(flash_attention.flash_attention, causal=True, sm_scale=D**-0.5)
    return jnp.swapaxes(attend(*heads_first, segment_ids=segments), 1, 2)

  with pltpu.force_tpu_interpret_mode():
    right, value = with_gradient(theirs, weights)(q, k, v)
  ours = functools.partial(attention, mask=Causal() & Segments(ids, ids))
  got, y = with_gradient(ours, weights)(q, k, v)
  np.testing.assert_allclose(y, value, atol=2e-5)
  # Sums of 256 products of 128 features each.
  for a, b in zip(got, right, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_it_is_jaxs_splash_attention_of_a_window_and_shared_keys():
  q, weights = normal(B, T, H, D), normal(B, T, H, D, seed=3)
  k, v = normal(B, T, H // G, D, seed=1), normal(B, T, H // G, D, seed=2)
  one = splash_attention.LocalMask((T, T), (70, 30), 0)
  mask = splash_attention.MultiHeadMask([one] * G)
  attend = splash_attention.make_splash_mqa_single_device(mask, interpret=True)

  def theirs(q, k, v):
    queries = jnp.moveaxis(q.reshape(B, T, H // G, G, D), 1, 3) * D**-0.5
    k, v = (jnp.moveaxis(x, 1, 2) for x in (k, v))
    y = jax.vmap(jax.vmap(attend))(queries, k, v)
    return jnp.moveaxis(y, 3, 1).reshape(q.shape)

  right, value = with_gradient(theirs, weights)(q, k, v)
  got, y = with_gradient(functools.partial(attention, mask=Window(70, 30)), weights)(q, k, v)
  np.testing.assert_allclose(y, value, atol=2e-5)
  for a, b in zip(got, right, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)
