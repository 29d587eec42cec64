"""Attention of one query step over a paged cache of few-bit keys and values."""

from pallas_kernels.decode_attention.op import decode_attention as decode_attention
from pallas_kernels.decode_attention.pages import (
  Pages as Pages,
  quantize_pages as quantize_pages,
)
