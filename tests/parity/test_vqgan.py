"""VQGAN's networks beside PyTorch's layers in the order of taming-transformers' `model.py`."""

import numpy as np
import pytest
from random_params import draw_params

from jaxcodec.image.vqgan import Vqgan
from jaxcodec.layers.vqgan import VqganConfig

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="needs the parity extra")

NET = VqganConfig(width=8, multipliers=(1, 1, 2), attention_levels=(2,), latent_width=6, groups=4)


class Reference:
  """Encoder and decoder as functions of our parameters; pictures [B, C, H, W]."""

  def __init__(self, params, groups: int):
    self.params, self.groups = params, groups

  def conv(self, p, x, stride=1, padding="same"):
    kernel = torch.tensor(np.array(p["kernel"])).permute(3, 2, 0, 1)
    bias = torch.tensor(np.array(p["bias"]))
    return torch.nn.functional.conv2d(x, kernel, bias, stride, padding)

  def norm(self, p, x):
    scale, bias = (torch.tensor(np.array(p[name])) for name in ("scale", "bias"))
    return torch.nn.functional.group_norm(x, self.groups, scale, bias, eps=1e-6)

  def residual(self, p, x):
    y = self.conv(p["conv_0"], torch.nn.functional.silu(self.norm(p["norm_0"], x)))
    y = self.conv(p["conv_1"], torch.nn.functional.silu(self.norm(p["norm_1"], y)))
    return y + (self.conv(p["skip"], x) if "skip" in p else x)

  def attention(self, p, x):
    batch, width, height, breadth = x.shape
    y = self.norm(p["norm"], x).flatten(2)

    def dense(name, y):
      kernel, bias = (torch.tensor(np.array(p[name][part])) for part in ("kernel", "bias"))
      return torch.einsum("io,bin->bon", kernel, y) + bias[None, :, None]

    q, k, v = (dense(name, y) for name in ("query", "key", "value"))
    weights = torch.softmax(torch.einsum("bcq,bck->bqk", q, k) * width**-0.5, dim=-1)
    y = dense("out", torch.einsum("bqk,bck->bcq", weights, v))
    return x + y.reshape(batch, width, height, breadth)

  def middle(self, p, x):
    x = self.attention(p["middle_attention"], self.residual(p["middle_0"], x))
    return self.residual(p["middle_1"], x)

  def level(self, p, x, level: int, blocks: int):
    for block in range(blocks):
      x = self.residual(p[f"block_{level}_{block}"], x)
      if f"attention_{level}_{block}" in p:
        x = self.attention(p[f"attention_{level}_{block}"], x)
    return x

  def out(self, p, x):
    return self.conv(p["conv_out"], torch.nn.functional.silu(self.norm(p["norm_out"], x)))

  def encode(self, x):
    p, levels = self.params["encoder"], len(NET.multipliers)
    x = self.conv(p["conv_in"], x)
    for level in range(levels):
      x = self.level(p, x, level, NET.num_blocks)
      if level < levels - 1:
        x = torch.nn.functional.pad(x, (0, 1, 0, 1))
        x = self.conv(p[f"down_{level}"]["conv"], x, 2, 0)
    return self.conv(p["project"], self.out(p, self.middle(p, x)))

  def decode(self, z):
    p, levels = self.params["decoder"], len(NET.multipliers)
    x = self.middle(p, self.conv(p["conv_in"], self.conv(p["project"], z)))
    for level in reversed(range(levels)):
      x = self.level(p, x, level, NET.num_blocks + 1)
      if level:
        x = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.conv(p[f"up_{level}"]["conv"], x)
    return self.out(p, x)


def test_latents_and_pictures_are_those_of_the_reference():
  codec = Vqgan(net=NET, codebook_size=16, codebook_features=5)
  x = np.random.default_rng(0).uniform(-1, 1, (2, 24, 16, 3)).astype(np.float32)
  params = draw_params(codec, x)
  reference = Reference(params, NET.groups)
  z = np.asarray(codec.apply({"params": params}, x, method="latents"))
  wanted = reference.encode(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
  assert z.shape == (2, 6, 4, 5)
  np.testing.assert_allclose(z, wanted.numpy(), atol=1e-4)
  codes = np.asarray(codec.apply({"params": params}, x, method="encode"))
  entries = np.asarray(params["quantizer"]["codebooks"][0], np.float64)
  apart = ((z[..., None, :].astype(np.float64) - entries) ** 2).sum(axis=-1)
  np.testing.assert_array_equal(codes[..., 0], apart.argmin(axis=-1))
  y = np.asarray(codec.apply({"params": params}, codes, method="decode"))
  chosen = torch.tensor(entries[codes[..., 0]], dtype=torch.float32).permute(0, 3, 1, 2)
  wanted = reference.decode(chosen).permute(0, 2, 3, 1)
  assert y.shape == x.shape
  np.testing.assert_allclose(y, wanted.numpy(), atol=1e-4)
  with pytest.raises(ValueError, match="multiples of 4"):
    codec.apply({"params": params}, x[:, :23], method="encode")
