"""Softmax attention, its masks and biases."""

from pallas_kernels.attention.bias import (
  Alibi as Alibi,
  alibi_slopes as alibi_slopes,
  rotary as rotary,
  t5_bias as t5_bias,
)
from pallas_kernels.attention.masks import (
  Arrow as Arrow,
  Causal as Causal,
  Chunked as Chunked,
  Lengths as Lengths,
  Mask as Mask,
  Segments as Segments,
  Window as Window,
)
from pallas_kernels.attention.op import attention as attention
