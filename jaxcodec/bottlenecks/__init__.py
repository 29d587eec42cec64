"""Bottlenecks: latents to codes and back."""

from jaxcodec.bottlenecks.quantized import Quantized as Quantized
from jaxcodec.bottlenecks.residual import ResidualVQ as ResidualVQ
