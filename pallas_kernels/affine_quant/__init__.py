"""Few-bit integers with a scale: ranges, codes, packed words, and gradients through rounding."""

from pallas_kernels.affine_quant.op import (
  affine_dequantize as affine_dequantize,
  affine_quantize as affine_quantize,
  affine_range as affine_range,
)
from pallas_kernels.affine_quant.pack import (
  num_words as num_words,
  pack_bits as pack_bits,
  unpack_bits as unpack_bits,
)
from pallas_kernels.affine_quant.through import (
  fake_quant as fake_quant,
  lsq as lsq,
  lsq_scale as lsq_scale,
)
from pallas_kernels.affine_quant.words import (
  dequantize_words as dequantize_words,
  quantize_words as quantize_words,
)
