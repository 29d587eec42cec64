"""Sum of the entries that codes name, over stages."""

from pallas_kernels.dequantize.op import dequantize as dequantize
