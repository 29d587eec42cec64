"""Bottlenecks: latents to codes and back."""

from jaxcodec.bottlenecks.factorized import FactorizedRVQ as FactorizedRVQ
from jaxcodec.bottlenecks.multiscale import MultiScaleVQ as MultiScaleVQ
from jaxcodec.bottlenecks.projected import SimVQ as SimVQ, TransferVQ as TransferVQ
from jaxcodec.bottlenecks.quantized import Quantized as Quantized
from jaxcodec.bottlenecks.residual import (
  GroupResidualVQ as GroupResidualVQ,
  ResidualVQ as ResidualVQ,
)
from jaxcodec.bottlenecks.split import SplitRVQ as SplitRVQ
from jaxcodec.bottlenecks.vector import VQ as VQ, CosineVQ as CosineVQ
