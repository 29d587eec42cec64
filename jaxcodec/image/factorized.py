"""The factorised prior: latents priced by one learned density per channel, wherever they stand.

Source: Ballé et al., https://arxiv.org/abs/1802.01436; "bmshj2018-factorized" and
"bmshj2018-factorized-relu" of CompressAI.
"""

from jaxcodec import functional as F
from jaxcodec.bottlenecks import EntropyBottleneck
from jaxcodec.image.picture_codec import Coded, PictureCodec, Rounded
from jaxcodec.image.transforms import (
  gdn_analysis,
  gdn_synthesis,
  relu_analysis,
  relu_synthesis,
)


class FactorizedPrior(PictureCodec):
  """Attributes as of `PictureCodec`, and `rectified`, whether rectifiers stand for the transforms'
  norms; there is no z."""

  rectified: bool = False

  @property
  def multiple(self) -> int:
    return 16

  def setup(self):
    super().setup()
    analysis = relu_analysis if self.rectified else gdn_analysis
    synthesis = relu_synthesis if self.rectified else gdn_synthesis
    self.g_a = analysis(self.filters, self.latents)
    self.g_s = synthesis(self.filters)
    self.entropy_bottleneck = EntropyBottleneck(self.latents)

  def side(self, y):
    return y  # Latents are their own side information: they have tables of their own.

  def code(self, y, z, key=None, quality=None, rounded: Rounded = F.round_about) -> Coded:
    y_hat, likelihood = self.side_information(y, key, rounded)
    aux_loss = self.entropy_bottleneck.quantile_loss()
    return Coded(self.synthesise(y_hat, quality), y_hat, {"y": likelihood}, aux_loss)
