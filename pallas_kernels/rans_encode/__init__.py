"""The loop of an encoder by asymmetric numeral systems, over many lanes."""

from pallas_kernels.rans_encode.op import (
  MAX_PRECISION as MAX_PRECISION,
  Pushed as Pushed,
  rans_encode as rans_encode,
)
from pallas_kernels.rans_encode.reference import (
  LOWEST_STATE as LOWEST_STATE,
  WORD_BITS as WORD_BITS,
)
