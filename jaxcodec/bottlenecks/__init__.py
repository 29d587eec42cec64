"""Bottlenecks: latents to codes and back; docs/bottlenecks.md helps to choose."""

from jaxcodec.bottlenecks.binary import (
  BSQ as BSQ,
  LFQ as LFQ,
  ResidualLFQ as ResidualLFQ,
)
from jaxcodec.bottlenecks.factorized import FactorizedRVQ as FactorizedRVQ
from jaxcodec.bottlenecks.features import CodebookFeatures as CodebookFeatures
from jaxcodec.bottlenecks.key_value import KeyValueBottleneck as KeyValueBottleneck
from jaxcodec.bottlenecks.multiscale import MultiScaleVQ as MultiScaleVQ
from jaxcodec.bottlenecks.projected import SimVQ as SimVQ, TransferVQ as TransferVQ
from jaxcodec.bottlenecks.quantized import Quantized as Quantized
from jaxcodec.bottlenecks.rate import (
  EntropyBottleneck as EntropyBottleneck,
  GaussianConditional as GaussianConditional,
)
from jaxcodec.bottlenecks.residual import (
  GroupResidualVQ as GroupResidualVQ,
  ResidualVQ as ResidualVQ,
)
from jaxcodec.bottlenecks.scalar import (
  FSQ as FSQ,
  LatentQuantizer as LatentQuantizer,
  ResidualFSQ as ResidualFSQ,
)
from jaxcodec.bottlenecks.split import SplitRVQ as SplitRVQ
from jaxcodec.bottlenecks.vector import VQ as VQ, CosineVQ as CosineVQ
