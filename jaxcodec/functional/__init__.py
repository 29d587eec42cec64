"""The arithmetic of codecs as pure functions over arrays; no Flax."""

from jaxcodec.functional.activation import elu as elu, snake as snake
from jaxcodec.functional.attention import rotary as rotary, window_attention as window_attention
from jaxcodec.functional.conv import (
  PadMode as PadMode,
  absent_as_zero as absent_as_zero,
  causal_conv as causal_conv,
  causal_conv_transpose as causal_conv_transpose,
  causal_depthwise_conv as causal_depthwise_conv,
  conv as conv,
  conv_transpose as conv_transpose,
  depthwise_conv_transpose as depthwise_conv_transpose,
  pad as pad,
  same_conv as same_conv,
  same_conv_transpose as same_conv_transpose,
)
from jaxcodec.functional.factorized import (
  FactorizedCodebooks as FactorizedCodebooks,
  FactorizedLosses as FactorizedLosses,
  factorized_decode as factorized_decode,
  factorized_encode as factorized_encode,
  factorized_straight_through as factorized_straight_through,
  nearest_direction as nearest_direction,
)
from jaxcodec.functional.quantize import (
  CodeStatistics as CodeStatistics,
  EmaState as EmaState,
  ema_update as ema_update,
  residual_decode as residual_decode,
  residual_encode as residual_encode,
  residual_statistics as residual_statistics,
  restart_dead_codes as restart_dead_codes,
  straight_through as straight_through,
)
from jaxcodec.functional.recurrent import lstm as lstm
from jaxcodec.functional.segments import overlap_add as overlap_add
