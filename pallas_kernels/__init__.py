"""Kernels for codecs: each folder holds an op, its reference and its platform's bodies.

This package imports nothing of jaxcodec and is useful alone.
"""

from pallas_kernels.dequantize import dequantize as dequantize
from pallas_kernels.nearest_code import (
  nearest_code as nearest_code,
  sharded_nearest_code as sharded_nearest_code,
)
from pallas_kernels.rans_decode import rans_decode as rans_decode
from pallas_kernels.rans_encode import rans_encode as rans_encode
from pallas_kernels.residual_quantize import residual_quantize as residual_quantize
