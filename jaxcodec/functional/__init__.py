"""The arithmetic of codecs as pure functions over arrays; no Flax."""

from jaxcodec.functional.conv import (
  PadMode as PadMode,
)
from jaxcodec.functional.conv import (
  causal_conv as causal_conv,
)
from jaxcodec.functional.conv import (
  causal_conv_transpose as causal_conv_transpose,
)
from jaxcodec.functional.conv import (
  conv as conv,
)
from jaxcodec.functional.conv import (
  conv_transpose as conv_transpose,
)
from jaxcodec.functional.conv import (
  pad as pad,
)
from jaxcodec.functional.conv import (
  same_conv as same_conv,
)
from jaxcodec.functional.quantize import (
  CodeStatistics as CodeStatistics,
)
from jaxcodec.functional.quantize import (
  EmaState as EmaState,
)
from jaxcodec.functional.quantize import (
  ema_update as ema_update,
)
from jaxcodec.functional.quantize import (
  residual_decode as residual_decode,
)
from jaxcodec.functional.quantize import (
  residual_encode as residual_encode,
)
from jaxcodec.functional.quantize import (
  residual_statistics as residual_statistics,
)
from jaxcodec.functional.quantize import (
  restart_dead_codes as restart_dead_codes,
)
from jaxcodec.functional.quantize import (
  straight_through as straight_through,
)
from jaxcodec.functional.recurrent import lstm as lstm
from jaxcodec.functional.segments import overlap_add as overlap_add
