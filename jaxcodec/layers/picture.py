"""Layers of picture codecs: convolutions, and the blocks that systems share. x is [B, H, W, C].

Source of the blocks: Cheng et al., https://arxiv.org/abs/2001.01568; He et al.,
https://arxiv.org/abs/2203.10886; compressai/layers/layers.py of CompressAI.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec import functional as F
from jaxcodec.layers.gdn import GDN


def _uniform(fan: int):
  """Kernels and biases as PyTorch draws them: within 1 / sqrt(fan), a third of what would keep the
  variance, so that latents start small beside the rounding step."""
  bound = fan**-0.5
  return lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)


class Conv2d(nn.Module):
  """Convolution with zeros around the picture.

  Attributes:
    features: output channels.
    kernel_size: odd.
    stride: input steps per output step.
    use_bias: whether a bias is added.
    mask: of a kernel's size, gives the taps that count; None for all.
  """

  features: int
  kernel_size: int = 5
  stride: int = 2
  use_bias: bool = True
  mask: Callable[[int], np.ndarray] | None = None

  @nn.compact
  def __call__(self, x):
    size = self.kernel_size
    shape = (size, size, x.shape[-1], self.features)
    start = _uniform(size * size * x.shape[-1])
    kernel = self.param("kernel", start, shape)
    bias = self.param("bias", start, (self.features,)) if self.use_bias else None
    if self.mask is not None:
      kernel = kernel * self.mask(size)
    return F.conv2d(x, kernel, bias, stride=self.stride)

  def arithmetic(self) -> F.Conv:
    """The layer as `InStrips` takes it: with a bias, without a mask."""
    own = self.variables["params"]
    return F.Conv(own["kernel"], own["bias"], self.stride)


class Deconv2d(nn.Module):
  """Transposed convolution to `stride` times the size; attributes as of `Conv2d`."""

  features: int
  kernel_size: int = 5
  stride: int = 2

  @nn.compact
  def __call__(self, x):
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    # PyTorch's fan of a transposed kernel counts its outputs.
    start = _uniform(self.kernel_size**2 * self.features)
    kernel = self.param("transposed_kernel", start, shape)
    bias = self.param("bias", start, (self.features,))
    return F.conv2d_transpose(x, kernel, bias, stride=self.stride)

  def arithmetic(self) -> F.Conv:
    own = self.variables["params"]
    return F.Conv(own["transposed_kernel"], own["bias"], self.stride, up=True)


class InStrips(nn.Sequential):
  """Layers one after another; in large pictures some go row by row, see `functional.strips`.

  Attributes:
    layers: as of `nn.Sequential`, with the same names.
    begin, end: which of the layers: those of one direction, and `GDN`; None for the last.
    rows: of the smaller end of these layers, that are taken together.
  """

  begin: int = 0
  end: int | None = None
  rows: int = 8

  @nn.compact
  def __call__(self, x):
    part = self.layers[self.begin : self.end]
    for layer in self.layers[: self.begin]:
      x = layer(x)
    if self.is_initializing():
      for layer in part:
        x = layer(x)
    else:
      x = F.in_turn([layer.arithmetic() for layer in part], x, self.rows)
    for layer in self.layers[self.begin + len(part) :]:
      x = layer(x)
    return x


class Subpixel(nn.Module):
  """A 3x3 convolution to factor^2 times the channels, which become factor times the sides."""

  features: int
  factor: int = 2

  @nn.compact
  def __call__(self, x):
    channels = self.factor**2 * self.features
    return F.depth_to_space(Conv2d(channels, 3, 1, name="shuffled")(x), self.factor)


class SpaceToDepth(nn.Module):
  """Squares of factor x factor pixels as channels."""

  factor: int

  def __call__(self, x):
    return F.space_to_depth(x, self.factor)


class Depthwise2d(nn.Module):
  """A convolution of each channel by itself, `kernel_size` odd, with zeros around the picture."""

  kernel_size: int = 3

  @nn.compact
  def __call__(self, x):
    size, channels = self.kernel_size, x.shape[-1]
    init = nn.initializers.normal(1 / size)
    kernel = self.param("depthwise_kernel", init, (size, size, channels))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    return F.depthwise_conv2d(x, kernel, bias)


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions beside the identity."""

  features: int
  activation: Callable = nn.leaky_relu

  @nn.compact
  def __call__(self, x):
    y = self.activation(Conv2d(self.features, 3, 1, name="conv1")(x))
    return x + self.activation(Conv2d(self.features, 3, 1, name="conv2")(y))


class ResidualDown(nn.Module):
  """`ResidualBlock` to half the size, with GDN."""

  features: int
  activation: Callable = nn.leaky_relu

  @nn.compact
  def __call__(self, x):
    y = self.activation(Conv2d(self.features, 3, 2, name="conv1")(x))
    y = GDN(name="gdn")(Conv2d(self.features, 3, 1, name="conv2")(y))
    return y + Conv2d(self.features, 1, 2, name="skip")(x)


class ResidualUp(nn.Module):
  """`ResidualBlock` to twice the size, with inverse GDN."""

  features: int
  activation: Callable = nn.leaky_relu

  @nn.compact
  def __call__(self, x):
    y = self.activation(Subpixel(self.features, name="subpel_conv")(x))
    y = GDN(inverse=True, name="igdn")(Conv2d(self.features, 3, 1, name="conv")(y))
    return y + Subpixel(self.features, name="upsample")(x)


class Bottleneck(nn.Module):
  """A 3x3 convolution between two 1x1 at half the channels, beside the identity."""

  features: int

  @nn.compact
  def __call__(self, x):
    y = nn.relu(Conv2d(self.features // 2, 1, 1, name="conv1")(x))
    y = nn.relu(Conv2d(self.features // 2, 3, 1, name="conv2")(y))
    return x + Conv2d(self.features, 1, 1, name="conv3")(y)


class Attention(nn.Module):
  """A trunk times a gate of sigmoids, beside the identity."""

  features: int

  @nn.compact
  def __call__(self, x):
    trunk = gate = x
    for i in range(3):
      trunk = nn.relu(Bottleneck(self.features, name=f"trunk_{i}")(trunk))
      gate = nn.relu(Bottleneck(self.features, name=f"gate_{i}")(gate))
    gate = Conv2d(self.features, 1, 1, name="gate_out")(gate)
    return x + trunk * jax.nn.sigmoid(gate)


def gelu(x):
  """x times the normal probability of what lies below x, not its approximation by tanh."""
  return nn.gelu(x, approximate=False)


def split(parameters):
  """Scales and means, the halves of the channels."""
  return jnp.split(parameters, 2, axis=-1)
