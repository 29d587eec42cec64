"""Exact attention as a module, so that who trains can say where its rows lie."""

import flax.linen as nn

import pallas_kernels as kernels
from pallas_kernels.attention import Mask


class Attend(nn.Module):
  """q [B, Tq, H, D], k and v [B, Tk, H, D] to [B, Tq, H, D]; it owns nothing.

  Attributes:
    mask: which keys a query sees, without arrays; None for all.
  """

  mask: Mask | None = None

  def __call__(self, q, k, v):
    return kernels.attention(q, k, v, mask=self.mask)
