"""MLIC++ and MLICv2: each slice of latents is foretold from up to five references at once.

A slice of channels has its anchors, then its other places. Anchors see side information, slices
before ("channel") and, by attention in time linear in the places, how these repeat over the picture
("inter"). Other places see the anchors too: about them ("local") and anywhere, where the slice
before was alike ("intra"); in the first slice side information says what is alike ("first").
After each pass a bounded correction foretells what rounding took away.

MLICv2 adds "first", transforms that mix tokens, channels of references weighed by their means,
positions that turn, and latents that are left out of the file where their scale is so small that
the mean will do; MLICv2+ is MLICv2 with latents refined for each picture (`image.refine`).
Sources: Jiang et al., https://arxiv.org/abs/2307.15421 and the authors' code
(JiangWeibeta/MLIC); https://arxiv.org/abs/2504.19119, whose code is not public: what the paper only
names is built as the layers say.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks import EntropyBottleneck
from jaxcodec.image.picture_codec import Coded, PictureCodec, Rounded, keys, priced
from jaxcodec.layers import references as R
from jaxcodec.layers.mixing import TokenMixing
from jaxcodec.layers.picture import (
  Conv2d,
  ResidualBlock,
  ResidualDown,
  ResidualUp,
  Subpixel,
  gelu,
  split,
)

Reference = Literal["channel", "inter", "local", "intra", "first"]


class Mlic(PictureCodec):
  """MLIC++ unless told otherwise. Attributes as of `PictureCodec`, and:

  slices: parts of the channels of y, of equal size.
  references: what slices are foretold from beside side information.
  mixing: token mixing blocks that stand for each residual block below half the picture's size; 0
    to leave those.
  reweighted: whether channels of references are weighed.
  rotary: whether positions turn queries and keys of "local".
  skip_below: scales below this leave a latent out: it is its mean. 0 to code all.
  """

  filters: int = 192
  latents: int = 320
  slices: int = 10
  references: tuple[Reference, ...] = ("channel", "inter", "local", "intra")
  mixing: int = 0
  reweighted: bool = False
  rotary: bool = False
  skip_below: float = 0.0

  def setup(self):
    super().setup()
    n, m, size = self.filters, self.latents, self.size
    if m % (2 * self.slices):
      raise ValueError(f"latents={m} are not {self.slices} slices of an even size")
    down = [ResidualDown(n, gelu), *self._blocks(n, 2), ResidualDown(n, gelu), *self._blocks(n, 4)]
    self.g_a = nn.Sequential([*down, ResidualDown(n, gelu), *self._blocks(n, 8), Conv2d(m, 3)])
    up = [*self._blocks(m, 16), ResidualUp(n, gelu), *self._blocks(n, 8), ResidualUp(n, gelu)]
    up = [*up, *self._blocks(n, 4), ResidualUp(n, gelu), *self._blocks(n, 2)]
    self.g_s = nn.Sequential([*up, Subpixel(3)])
    self.h_a, self.h_s = _hyper_analysis(n), _hyper_synthesis(m)
    self.entropy_bottleneck = EntropyBottleneck(n)
    later = range(1, self.slices)
    if "channel" in self.references:
      self.channel_context = [R.channel_context(size) for _ in later]
    if "inter" in self.references:
      self.global_inter_context = [R.GlobalInter(size, i) for i in later]
    if "intra" in self.references:
      self.global_intra_context = [R.GlobalIntra(size) for _ in later]
    if "local" in self.references:
      self.local_context = [R.LocalContext(self.rotary) for _ in range(self.slices)]
    if "first" in self.references:
      self.global_first_context = R.GlobalFirst(size)
    every = range(self.slices)
    self.entropy_parameters_anchor = [_parameters(size) for _ in every]
    self.entropy_parameters_nonanchor = [_parameters(size) for _ in every]
    self.lrp_anchor = [_residual(size) for _ in every]
    self.lrp_nonanchor = [_residual(size) for _ in every]
    if self.reweighted:
      self.weights_anchor = [R.Reweighted() for _ in every]
      self.weights_nonanchor = [R.Reweighted() for _ in every]

  @property
  def size(self) -> int:
    """Channels of a slice."""
    return self.latents // self.slices

  def _blocks(self, features: int, step: int) -> list[nn.Module]:
    """What stands between two changes of size, at 1 / `step` of the picture's."""
    if not self.mixing or step == 2:
      return [ResidualBlock(features, gelu)]
    return [TokenMixing() for _ in range(self.mixing)]

  def code(
    self, y, z, key=None, quality=None, rounded: Rounded = F.round_about, selective=True
  ) -> Coded:
    """As of `PictureCodec`; `selective`, a bool or a traced one, is whether small scales leave
    latents out, for a start of training without it."""
    for_z, for_y = keys(key, 2)
    z_hat, of_z = self.side_information(z, for_z, rounded, always=True)
    side, anchor = self.h_s(z_hat), R.anchors(*y.shape[1:3])
    side_means = split(side)[1]
    done: list[jax.Array] = []
    found = []
    for i, part in enumerate(jnp.split(y, self.slices, axis=-1)):
      known = self._before(i, done)
      seen = self._weighed("anchor", i, known)
      first = self.entropy_parameters_anchor[i](jnp.concatenate([*seen, side], axis=-1))
      steps = jnp.where(anchor, self._rounded(part, first, rounded, selective), 0)
      told = self.lrp_anchor[i](jnp.concatenate([side_means, *done, steps], axis=-1))
      y_hat = steps + jnp.where(anchor, 0.5 * jnp.tanh(told), 0)
      seen = self._weighed("nonanchor", i, [*self._beside(i, y_hat, done, side), *known])
      second = self.entropy_parameters_nonanchor[i](jnp.concatenate([*seen, side], axis=-1))
      rest = self._rounded(part, second, rounded, selective)
      y_hat, steps = (jnp.where(anchor, x, rest) for x in (y_hat, steps))
      told = self.lrp_nonanchor[i](jnp.concatenate([side_means, *done, y_hat], axis=-1))
      done.append(y_hat + jnp.where(anchor, 0, 0.5 * jnp.tanh(told)))
      found.append((steps, *split(jnp.where(anchor, first, second))))
    steps, scales, means = (jnp.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
    likelihood = F.gaussian_likelihood(priced(y, steps, for_y), scales, means)
    y_hat = jnp.concatenate(done, axis=-1)
    if not self.skip_below:
      return self.coded(y_hat, likelihood, of_z, quality)
    left_out = (scales < self.skip_below) & selective
    coded = self.coded(y_hat, jnp.where(left_out, 1, likelihood), of_z, quality)
    # Latents that would have been rounded to another number than their mean's are to have scales.
    lost = jnp.where(left_out, nn.relu(jnp.abs(y - means) - 0.5), 0).sum(axis=(1, 2, 3))
    return coded._replace(penalty=lost / (256 * y.shape[1] * y.shape[2]))

  def _rounded(self, part, parameters, rounded: Rounded, selective):
    scales, means = split(parameters)
    steps = rounded(part, means)
    if not self.skip_below:
      return steps
    return jnp.where((scales < self.skip_below) & selective, means, steps)

  def _before(self, i: int, done: list[jax.Array]) -> list[jax.Array]:
    """References from slices before."""
    if not i:
      return []
    before, found = jnp.concatenate(done, axis=-1), []
    if "inter" in self.references:
      found.append(self.global_inter_context[i - 1](before))
    if "channel" in self.references:
      found.append(self.channel_context[i - 1](before))
    return found

  def _beside(self, i: int, x, done: list[jax.Array], side) -> list[jax.Array]:
    """References from the slice's anchors x."""
    found = []
    if "local" in self.references:
      found.append(self.local_context[i](x))
    if i and "intra" in self.references:
      found.append(self.global_intra_context[i - 1](done[-1], x))
    if not i and "first" in self.references:
      found.append(self.global_first_context(side, x))
    return found

  def _weighed(self, which: str, i: int, found: list[jax.Array]) -> list[jax.Array]:
    if not (self.reweighted and found):
      return found
    return [getattr(self, f"weights_{which}")[i](jnp.concatenate(found, axis=-1))]


def mlic_v2(filters: int = 192, latents: int = 320, slices: int = 10, levels: int = 0) -> Mlic:
  """MLICv2."""
  return Mlic(
    filters=filters,
    latents=latents,
    slices=slices,
    levels=levels,
    references=("channel", "inter", "local", "intra", "first"),
    mixing=2,
    reweighted=True,
    rotary=True,
    skip_below=0.12,
  )


def _hyper_analysis(n: int) -> nn.Sequential:
  down = [Conv2d(n, 3, 1), gelu, Conv2d(n, 3, 1), gelu, Conv2d(n, 3), gelu]
  return nn.Sequential([*down, Conv2d(n, 3, 1), gelu, Conv2d(n, 3)])


def _hyper_synthesis(m: int) -> nn.Sequential:
  up = [Conv2d(m, 3, 1), gelu, Subpixel(m), gelu, Conv2d(m * 3 // 2, 3, 1), gelu]
  return nn.Sequential([*up, Subpixel(m * 3 // 2), gelu, Conv2d(2 * m, 3, 1)])


def _parameters(size: int) -> nn.Sequential:
  """Scales and means of a slice, each place alone."""
  layers = [layer for n in (10, 8, 4) for layer in (Conv2d(n * size, 1, 1), gelu)]
  return nn.Sequential([*layers, Conv2d(2 * size, 1, 1)])


def _residual(size: int) -> nn.Sequential:
  layers = [Conv2d(7 * size, 3, 1), gelu, Conv2d(4 * size, 3, 1), gelu, Conv2d(size, 3, 1)]
  return nn.Sequential(layers)
