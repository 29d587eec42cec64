"""Kernels for codecs: each folder holds an op, its reference and its platform's bodies.

This package imports nothing of jaxcodec and is useful alone.
"""

from pallas_kernels.affine_quant import (
  affine_dequantize as affine_dequantize,
  affine_quantize as affine_quantize,
  affine_range as affine_range,
  dequantize_words as dequantize_words,
  fake_quant as fake_quant,
  lsq as lsq,
  lsq_scale as lsq_scale,
  pack_bits as pack_bits,
  quantize_words as quantize_words,
  unpack_bits as unpack_bits,
)
from pallas_kernels.attention import (
  Alibi as Alibi,
  Arrow as Arrow,
  Causal as Causal,
  Chunked as Chunked,
  Lengths as Lengths,
  Segments as Segments,
  Window as Window,
  alibi_slopes as alibi_slopes,
  attention as attention,
  rotary as rotary,
  t5_bias as t5_bias,
)
from pallas_kernels.decode_attention import (
  Pages as Pages,
  decode_attention as decode_attention,
  quantize_pages as quantize_pages,
)
from pallas_kernels.dequantize import dequantize as dequantize
from pallas_kernels.nearest_code import (
  nearest_code as nearest_code,
  sharded_nearest_code as sharded_nearest_code,
)
from pallas_kernels.quant_matmul import (
  additive_dequantize as additive_dequantize,
  additive_matmul as additive_matmul,
  quant_matmul as quant_matmul,
  ternary_matmul as ternary_matmul,
  ternary_weights as ternary_weights,
)
from pallas_kernels.rans_decode import rans_decode as rans_decode
from pallas_kernels.rans_encode import rans_encode as rans_encode
from pallas_kernels.residual_quantize import residual_quantize as residual_quantize
