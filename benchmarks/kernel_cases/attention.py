"""Attention, and attention to a quantized cache, beside jax's own, tokamax and PyTorch."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np

import pallas_kernels as kernels
from kernel_cases.case import HostCase, TpuCase
from kernel_cases.vector import jax_form, normal, torch_form
from pallas_kernels.attention.reference import Rule
from pallas_kernels.decode_attention import reference as decode

# Rows, steps, query heads, key heads, features.
ATTENTIONS = [(2, 1024, 8, 8, 64), (1, 2048, 8, 2, 64)]
# Rows, tokens, query heads, key heads, features; pages of 256 tokens.
CACHE = (4, 4096, 32, 8, 128)


def plain_attention(q, k, v, causal: bool):
  group = q.shape[2] // k.shape[2]
  k, v = (jnp.repeat(x, group, axis=2) for x in (k, v))
  scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
  if causal:
    seen = jnp.tril(jnp.ones((q.shape[1], k.shape[1]), bool))
    scores = jnp.where(seen, scores, -jnp.inf)
  return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v)


def torch_attention(q, k, v, causal: bool):
  import torch

  q, k, v = (x.transpose(1, 2) for x in (q, k, v))
  sdpa = torch.nn.functional.scaled_dot_product_attention
  return sdpa(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])


def gradient(attend):
  return jax.grad(lambda q, k, v: attend(q, k, v).sum(), argnums=(0, 1, 2))


def torch_gradient(attend):
  import torch

  def run(q, k, v):
    given = [x.detach().requires_grad_() for x in (q, k, v)]
    return torch.autograd.grad(attend(*given).sum(), given)

  return run


def tokamax_attention(q, k, v, causal: bool):
  import tokamax
  from absl import flags

  # It reads absl's flags, which would be read from our command line.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS([""])
  return tokamax.dot_product_attention(q, k, v, is_causal=causal)


def tokamax_form(causal: bool, of, *inputs):
  def make():
    importlib.import_module("tokamax")
    return jax_form(of(functools.partial(tokamax_attention, causal=causal)), *inputs)()

  return make


def attention_cases() -> list[HostCase]:
  cases = []
  for batch, steps, heads, key_heads, features in ATTENTIONS:
    q = functools.partial(normal, batch, steps, heads, features)
    k, v = (
      functools.partial(normal, batch, steps, key_heads, features, seed=seed) for seed in (1, 2)
    )
    for causal in (True, False):
      mask = kernels.Causal() if causal else None
      ours = functools.partial(kernels.attention, mask=mask)
      plain = functools.partial(plain_attention, causal=causal)
      theirs = functools.partial(jax.nn.dot_product_attention, is_causal=causal)
      peer = functools.partial(torch_attention, causal=causal)
      size = f"{batch} x {steps} x {heads}/{key_heads} x {features}{', causal' if causal else ''}"
      flops = 4.0 * batch * heads * steps**2 * features / (2 if causal else 1)
      moved = 8.0 * batch * steps * (heads + key_heads) * features
      forms = {
        "ours": jax_form(ours, q, k, v),
        "plain JAX": jax_form(plain, q, k, v),
        "jax.nn": jax_form(theirs, q, k, v),
        "tokamax": tokamax_form(causal, lambda attend: attend, q, k, v),
        "torch": torch_form(peer, q, k, v),
        "torch.compile": torch_form(peer, q, k, v, compiled=True),
      }
      cases.append(HostCase("attention", size, forms, flops, moved))
      forms = {
        "ours": jax_form(gradient(ours), q, k, v),
        "plain JAX": jax_form(gradient(plain), q, k, v),
        "jax.nn": jax_form(gradient(theirs), q, k, v),
        "tokamax": tokamax_form(causal, gradient, q, k, v),
        "torch": torch_form(torch_gradient(peer), q, k, v),
      }
      # One product of three has to be made again: seven for the forward pass' two.
      cases.append(HostCase("attention_gradient", size, forms, 3.5 * flops, 3 * moved))
  return cases


def quantized_cache(bits):
  batch, tokens, _, heads, features = CACHE
  shape = batch * tokens // 256, 256, heads, features
  make = functools.partial(kernels.quantize_pages, bits=bits, key_group=64, value_group=64)
  return jax.jit(make)(normal(*shape, seed=1), normal(*shape, seed=2))


def decode_case(bits: int) -> HostCase:
  batch, tokens, heads, key_heads, features = CACHE
  table = np.arange(batch * tokens // 256, dtype=np.int32).reshape(batch, -1)
  lengths = np.full(batch, tokens, np.int32)

  def on_pages(attend):
    def make():
      pages, q = quantized_cache(bits), jnp.asarray(normal(batch, heads, features))
      given, compiled = (q, pages, jnp.asarray(table), jnp.asarray(lengths)), jax.jit(attend)
      return lambda: jax.block_until_ready(compiled(*given))

    return make

  def plain(q, pages, table, lengths):
    return decode.decode_attention(q, pages, table, lengths, rule=Rule(features**-0.5, None))

  q = functools.partial(normal, batch, 1, heads, features)
  k, v = (
    functools.partial(normal, batch, tokens, key_heads, features, seed=seed) for seed in (1, 2)
  )
  forms = {
    "ours": on_pages(kernels.decode_attention),
    "plain JAX": on_pages(plain),
    "float32 cache, plain JAX": jax_form(functools.partial(plain_attention, causal=False), q, k, v),
    "float32 cache, torch": torch_form(functools.partial(torch_attention, causal=False), q, k, v),
  }
  size = f"{batch} x {tokens} x {heads}/{key_heads} x {features}, {bits} bits"
  scores = batch * tokens * heads
  packed = sum(x.size * x.dtype.itemsize for x in jax.eval_shape(lambda: quantized_cache(bits)))
  return HostCase("decode_attention", size, forms, 4.0 * scores * features, packed)


def host_cases() -> list[HostCase]:
  return [*attention_cases(), *(decode_case(bits) for bits in (8, 4, 2))]


def tpu_cases() -> list[TpuCase]:
  shape = jax.ShapeDtypeStruct
  q, k = (shape((1, 4096, heads, 128), jnp.bfloat16) for heads in (16, 4))
  attend = functools.partial(kernels.attention, mask=kernels.Causal())
  size = "1 x 4096 x 16/4 x 128, causal"
  cases = [
    TpuCase("attention", size, attend, (q, k, k), "bfloat16", 1),
    TpuCase("attention_gradient", size, gradient(attend), (q, k, k), "bfloat16", 1),
  ]
  rows, tokens, page = 16, 8192, shape((512, 256, 8, 128), jnp.bfloat16)
  q, table = shape((rows, 32, 128), jnp.bfloat16), shape((rows, tokens // 256), jnp.int32)
  plain = functools.partial(decode.decode_attention, rule=Rule(128**-0.5, None))
  for bits in (8, 4, 2):
    make = functools.partial(kernels.quantize_pages, bits=bits, key_group=64, value_group=64)
    shapes = q, jax.eval_shape(make, page, page), table, shape((rows,), jnp.int32)
    size = f"{rows} x {tokens} x 32/8 x 128, {bits} bits"
    cases.append(TpuCase("decode_attention", size, kernels.decode_attention, shapes, "bfloat16", 1))
    if bits == 4:
      cases.append(TpuCase("decode_attention", f"{size}, XLA", plain, shapes, "bfloat16", 6))
  return cases
