"""The loop of a decoder by asymmetric numeral systems, over many lanes."""

from pallas_kernels.rans_decode.op import rans_decode as rans_decode
from pallas_kernels.rans_decode.reference import (
  pop as pop,
  read as read,
  refill as refill,
  slots as slots,
)
