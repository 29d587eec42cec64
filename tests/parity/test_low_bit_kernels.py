"""Attention and affine quantization beside PyTorch's and Transformers'."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import (
  Alibi,
  Causal,
  Lengths,
  alibi_slopes,
  attention,
  fake_quant,
  lsq,
  rotary,
  t5_bias,
)

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch comes with the parity extra")


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def heads_first(x):
  return torch.from_numpy(np.swapaxes(x, 1, 2).copy()).requires_grad_()


@pytest.mark.parametrize("backend", [None, "interpret"])
def test_attention_and_gradients_are_pytorchs(backend):
  q, weights = normal(2, 37, 4, 16), normal(2, 37, 4, 16, seed=3)
  k, v = normal(2, 53, 2, 16, seed=1), normal(2, 53, 2, 16, seed=2)
  bias = normal(2, 4, 37, 53, seed=4)
  lengths = np.array([53, 20], np.int32)

  @jax.jit
  def ours(q, k, v, bias):
    def loss(*args):
      mask = Causal(16) & Lengths(lengths)
      y = attention(*args[:3], bias=args[3], mask=mask, backend=backend)
      return (y * weights).sum(), y

    grads, y = jax.grad(loss, (0, 1, 2, 3), has_aux=True)(q, k, v, bias)
    return y, *grads

  theirs = [heads_first(x) for x in (q, k, v)]
  added = torch.from_numpy(bias).requires_grad_()
  seen = np.tril(np.ones((37, 53), bool), 16) & (np.arange(53) < lengths[:, None, None])
  hidden = torch.from_numpy(np.where(seen, 0, -np.inf).astype(np.float32))[:, None]
  y = torch.nn.functional.scaled_dot_product_attention(
    *theirs, attn_mask=added + hidden, enable_gqa=True
  )
  (y * heads_first(weights).detach()).sum().backward()
  right = [y.detach(), *(x.grad for x in theirs)]
  got = ours(q, k, v, bias)
  for a, b in zip(got[:4], right, strict=True):
    np.testing.assert_allclose(np.swapaxes(a, 1, 2), b.numpy(), atol=2e-5)
  np.testing.assert_allclose(got[4], added.grad.numpy(), atol=2e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5s_buckets_are_transformers(bidirectional):
  from transformers.models.t5.modeling_t5 import T5Attention

  table = normal(32, 4)
  distance = torch.arange(400)[None] - torch.arange(300)[:, None]
  bucket = T5Attention._relative_position_bucket(distance, bidirectional, 32, 128)
  right = table[bucket.numpy()].transpose(2, 0, 1)[None]
  np.testing.assert_array_equal(t5_bias(table, 300, 400, bidirectional=bidirectional), right)


@pytest.mark.parametrize("num_heads", [8, 12])
def test_alibi_is_blooms(num_heads):
  from transformers.models.bloom.modeling_bloom import build_alibi_tensor

  ones = torch.ones(1, 20)
  bias = build_alibi_tensor(ones, num_heads, torch.float32).reshape(1, num_heads, 1, 20).numpy()
  np.testing.assert_allclose(alibi_slopes(num_heads), bias[0, :, 0, 1], rtol=1e-6)
  q, k, v = (normal(1, 20, num_heads, 8, seed=s) for s in range(3))
  f = jax.jit(functools.partial(attention, mask=Causal()))
  # Bloom adds slope * j; within a row that differs from -slope * (i - j) by a constant.
  right = f(q, k, v, bias=np.broadcast_to(bias, (1, num_heads, 20, 20)))
  got = f(q, k, v, bias=Alibi(alibi_slopes(num_heads)))
  np.testing.assert_allclose(got, right, atol=1e-5)


def test_rotary_is_gpt_neoxs():
  from transformers import GPTNeoXConfig
  from transformers.models.gpt_neox import modeling_gpt_neox as neox

  x = normal(2, 30, 3, 16)
  config = GPTNeoXConfig(
    hidden_size=48,
    num_attention_heads=3,
    rotary_pct=1.0,
    rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
  )
  steps = torch.arange(5, 35)[None].expand(2, -1)
  given = heads_first(x).detach()
  cos, sin = neox.GPTNeoXRotaryEmbedding(config)(given, steps)
  right = neox.apply_rotary_pos_emb(given, given, cos, sin)[0].numpy()
  got = np.swapaxes(rotary(x, np.arange(5, 35)), 1, 2)
  np.testing.assert_allclose(got, right, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_fake_quant_is_pytorchs(bits):
  x, scale = normal(6, 40) * 2, np.array([0.1, 0.2, 0.3, 0.05, 0.7, 1.1], np.float32)
  zero = np.array([0, 1, 2, 0, 3, 1])
  high = 2**bits - 1
  given = torch.from_numpy(x).requires_grad_()
  y = torch.fake_quantize_per_channel_affine(
    given, torch.from_numpy(scale), torch.from_numpy(zero).int(), 0, 0, high
  )
  weights = normal(6, 40, seed=1)
  (y * torch.from_numpy(weights)).sum().backward()
  s, offset = scale[:, None], (-scale * zero)[:, None]
  value, backward = jax.vjp(lambda x: fake_quant(x, s, offset, bits), x)
  np.testing.assert_allclose(value, y.detach().numpy(), atol=1e-5)
  np.testing.assert_array_equal(backward(weights)[0], given.grad.numpy())


def test_a_learned_scales_gradient_is_pytorchs():
  x, weights = normal(4, 64), normal(4, 64, seed=1)
  scale = np.array([0.05, 0.2, 0.3, 0.5], np.float32)
  # PyTorch clips what it has rounded, LSQ's paper what it has not: half a step at either end.
  steps = x / scale[:, None]
  x = np.where((np.abs(steps) > 6.9) & (np.abs(steps) < 8.6), x / 2, x)
  given, step = torch.from_numpy(x).requires_grad_(), torch.from_numpy(scale).requires_grad_()
  y = torch._fake_quantize_learnable_per_channel_affine(
    given, step, torch.zeros(4), 0, -8, 7, (64 * 7) ** -0.5
  )
  (y * torch.from_numpy(weights)).sum().backward()

  @jax.jit
  def ours(x, s):
    value, backward = jax.vjp(lambda x, s: lsq(x, s, 4), x, s)
    return value, *backward(jnp.asarray(weights))

  value, dx, ds = ours(x, scale[:, None])
  np.testing.assert_allclose(value, y.detach().numpy(), atol=1e-6)
  np.testing.assert_array_equal(dx, given.grad.numpy())
  np.testing.assert_allclose(ds[:, 0], step.grad.numpy(), rtol=1e-4)
