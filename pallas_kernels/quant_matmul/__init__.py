"""Products with weights that are kept as few-bit integers, ternary signs or sums of codewords."""

from pallas_kernels.quant_matmul.additive import (
  additive_dequantize as additive_dequantize,
  additive_matmul as additive_matmul,
)
from pallas_kernels.quant_matmul.op import quant_matmul as quant_matmul
from pallas_kernels.quant_matmul.ternary import (
  ternary_matmul as ternary_matmul,
  ternary_weights as ternary_weights,
)
