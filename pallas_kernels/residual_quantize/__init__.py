"""All stages of residual vector quantization."""

from pallas_kernels.residual_quantize.op import residual_quantize as residual_quantize
