"""Bottlenecks: latents to codes and back."""

from jaxcodec.bottlenecks.factorized import FactorizedRVQ as FactorizedRVQ
from jaxcodec.bottlenecks.quantized import Quantized as Quantized
from jaxcodec.bottlenecks.residual import ResidualVQ as ResidualVQ
