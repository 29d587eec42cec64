"""Lyra V2 with the integers of its released files: codes and sound as on a phone.

The released networks hold floats in the levels of few channels, and 8-bit integers in the two
deepest levels, rounded after every operation. Those integers are computed here as TensorFlow Lite's
reference kernels do (its other kernels round some sums otherwise, and the networks carry such a
difference on). Between integer layers runs centred int32; see `functional.integer`. The floats that
are rounded to integers are summed in the kernels' order; see `functional.ordered`.

What crosses from one frame of 20 ms to the next is rounded where the files round it: transposed
convolutions round their own frame's sum before the last frame's tail is added. So here a signal is
a batch of frames there.
Source: the graphs of github.com/google/lyra, lyra/model_coeffs.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec.audio.lyra import Lyra, LyraConfig, ResidualUnit, leaky
from jaxcodec.bottlenecks import ResidualVQ
from jaxcodec.functional import integer, ordered
from jaxcodec.layers.chain import Chain


class LyraExact(Lyra):
  """As `Lyra`, with the last two levels in integers.

  Its integer parameters have no gradient and its random ones no meaning: load them.
  """

  def setup(self):
    self.encoder = ExactEncoder(self.net)
    self.quantizer = ResidualVQ(self.num_codebooks, self.codebook_size, self.net.features)
    self.decoder = ExactDecoder(self.net)


class ExactEncoder(nn.Module):
  """[B, T, 1] -> ([B, T / hop_length, features], state)."""

  config: LyraConfig

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    config, run = self.config, Chain(state, final, length)
    last = len(config.widths) - 1
    for level in range(last):
      x = run(_down(config, level, OrderedConv), leaky(x) if level else x)
      for unit in _units(config, level, OrderedUnit, EnteringUnit):
        x = run(unit, x)
    x = IntegerLeaky(name=f"leaky_{last}")(x)
    x = run(_down(config, last, IntegerConv), x)
    x = IntegerLeaky(name="leaky_out")(x)
    size, groups = config.last_kernel_size, config.last_groups
    x = run(IntegerConv(config.features, size, groups=groups, name="conv_out"), x)
    return Dequantize(name="dequantize")(x), run.after


class ExactDecoder(nn.Module):
  """[B, F, features] -> ([B, F * hop_length, 1], state)."""

  config: LyraConfig

  @nn.compact
  def __call__(self, z, state=None, final: bool = True, length=None):
    config, run = self.config, Chain(state, final, length)
    last, size, groups = len(config.widths) - 1, config.last_kernel_size, config.last_groups
    x = run(OrderedConv(config.widths[last], size, groups=groups, name="conv_in"), z)
    x = Quantize(name="quantize")(leaky(x))
    x = run(_integer_up(config, last), x)
    for level in reversed(range(last)):
      for unit in _units(config, level, ResidualUnit, LeadingUnit):
        x = run(unit, x)
      if level == last - 1:
        x = IntegerLeaky(name=f"leaky_{level}")(x)
        x = run(_integer_up(config, level), x)
      else:
        x = run(config.up(level), leaky(x))
    return x, run.after


def _down(config: LyraConfig, level: int, kind: type) -> nn.Module:
  """The encoder's convolution into a level."""
  width, size = config.widths[level], config.kernel_sizes[level]
  return kind(width, size, config.strides[level], config.groups[level], name=f"down_{level}")


def _units(config: LyraConfig, level: int, floats: type, first: type) -> list:
  """The residual units of a level: `floats`, but of the last that has some `first` and integers."""
  specs = config.units(level)
  kinds: list[type] = [floats] * len(specs)
  if level == len(config.widths) - 2:
    kinds = [first] + [IntegerUnit] * (len(specs) - 1)
  pairs = zip(kinds, specs, strict=True)
  return [kind(groups, dilation, name=name) for kind, (groups, dilation, name) in pairs]


def _integer_up(config: LyraConfig, level: int) -> "IntegerUp":
  steps = math.prod(config.strides[level + 1 :])
  size, stride, groups = config.kernel_sizes[level], config.strides[level], config.groups[level]
  return IntegerUp(config.widths[level - 1], size, stride, groups, steps, name=f"up_{level}")


class OrderedUnit(nn.Module):
  """`ResidualUnit` with sums in order."""

  groups: int
  dilation: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    run, width = Chain(state, final, length), x.shape[-1]
    y = run(OrderedDepthwise(3, self.dilation, name="depthwise"), leaky(x))
    y = run(OrderedConv(width, 1, name="conv_0"), y)
    y = run(OrderedConv(width, 1, groups=self.groups, name="conv_1"), leaky(y))
    return x + y, run.after


class EnteringUnit(nn.Module):
  """The encoder's unit where integers begin: its sum is the last of floats."""

  groups: int
  dilation: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    run, width = Chain(state, final, length), x.shape[-1]
    y = run(OrderedDepthwise(3, self.dilation, name="depthwise"), leaky(x))
    y = Quantize(name="quantize_0")(run(OrderedConv(width, 1, name="conv_0"), y))
    y = IntegerLeaky(name="leaky_1")(y)
    y = run(IntegerConv(width, 1, groups=self.groups, name="conv_1"), y)
    y = Dequantize(name="dequantize")(y)
    return Quantize(name="quantize_1")(x + y), run.after


class LeadingUnit(nn.Module):
  """The decoder's first unit after the integer upsampling, whose sum is of floats."""

  groups: int
  dilation: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    run, width = Chain(state, final, length), x.shape[-1]
    y = Quantize(name="quantize_0")(leaky(x))
    y = run(IntegerDepthwise(3, self.dilation, name="depthwise"), y)
    y = run(IntegerConv(width, 1, name="conv_0"), y)
    y = IntegerLeaky(name="leaky_1")(y)
    y = run(IntegerConv(width, 1, groups=self.groups, name="conv_1"), y)
    y = Dequantize(name="dequantize")(y)
    return Quantize(name="quantize_1")(x + y), run.after


class IntegerUnit(nn.Module):
  """`ResidualUnit` of integers."""

  groups: int
  dilation: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    run, width = Chain(state, final, length), x.shape[-1]
    y = IntegerLeaky(name="leaky_0")(x)
    y = run(IntegerDepthwise(3, self.dilation, name="depthwise"), y)
    y = run(IntegerConv(width, 1, name="conv_0"), y)
    y = IntegerLeaky(name="leaky_1")(y)
    y = run(IntegerConv(width, 1, groups=self.groups, name="conv_1"), y)
    multipliers, shifts = _factors(self, 3)
    return integer.add(y, x, multipliers, shifts, _zero_point(self)), run.after


class OrderedConv(nn.Module):
  """Causal convolution of floats, summed in order. Attributes: as `Conv1d`."""

  features: int
  kernel_size: int
  stride: int = 1
  groups: int = 1

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    del final, length  # The signal comes in whole hops.
    shape = (self.kernel_size, x.shape[-1] // self.groups, self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    window = {"stride": self.stride, "groups": self.groups}
    return ordered.ordered_conv(x, kernel, bias, state, **window)


class OrderedDepthwise(nn.Module):
  """Causal convolution of floats with one filter per channel, summed in order."""

  kernel_size: int
  dilation: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    del final, length
    shape = (self.kernel_size, x.shape[-1])
    kernel = self.param("kernel", nn.initializers.normal(self.kernel_size**-0.5), shape)
    bias = self.param("bias", nn.initializers.zeros, shape[-1:])
    return ordered.ordered_depthwise_conv(x, kernel, bias, state, dilation=self.dilation)


class IntegerConv(nn.Module):
  """Causal convolution, rounded to 8 bits. Attributes: as `Conv1d`."""

  features: int
  kernel_size: int
  stride: int = 1
  groups: int = 1

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    del final, length
    shape = (self.kernel_size, x.shape[-1] // self.groups, self.features)
    kernel, bias = _weights(self, shape)
    window = {"stride": self.stride, "groups": self.groups}
    y, state = integer.integer_conv(x, kernel, bias, state, **window)
    return _rounded(self, y), state


class IntegerDepthwise(nn.Module):
  """Causal convolution with one filter per channel, rounded to 8 bits."""

  kernel_size: int
  dilation: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    del final, length
    kernel, bias = _weights(self, (self.kernel_size, x.shape[-1]))
    y, state = integer.integer_depthwise_conv(x, kernel, bias, state, dilation=self.dilation)
    return _rounded(self, y), state


class IntegerUp(nn.Module):
  """Transposed convolution of centred integers to floats, frame by frame.

  Each frame's sum is rounded to 8 bits and made float; the part past the frame's end, less the
  bias, is added to the next frame.

  Attributes: as `ConvTranspose1d`, and
    steps: inputs in a frame.
  """

  features: int
  kernel_size: int
  stride: int
  groups: int
  steps: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    del final, length
    batch, past, size = x.shape[0], self.kernel_size - self.stride, self.steps * self.stride
    if past > size:
      raise ValueError(f"a tail of {past} samples reaches past the next frame of {size}")
    shape = (self.kernel_size, x.shape[-1] // self.groups, self.features)
    kernel, bias = _weights(self, shape)
    window = {"stride": self.stride, "groups": self.groups}
    frames = x.reshape(-1, self.steps, x.shape[-1])
    y = integer.integer_conv_transpose(frames, kernel, bias, **window)
    y = ordered.product(_rounded(self, y), self.param("scale", _constant(0.01), (self.features,)))
    y = y.reshape(batch, -1, size + past, self.features)
    tails = y[:, :, size:] - self.param("tail_bias", nn.initializers.zeros, (self.features,))
    if state is None:
      state = jnp.zeros_like(tails[:, 0])
    before = jnp.concatenate([state[:, None], tails[:, :-1]], axis=1)
    y = y[:, :, :size] + jnp.pad(before, ((0, 0), (0, 0), (0, size - past), (0, 0)))
    return y.reshape(batch, -1, self.features), tails[:, -1]


class IntegerLeaky(nn.Module):
  """Leaky ReLU between two scales."""

  @nn.compact
  def __call__(self, x):
    multipliers, shifts = _factors(self, 2)
    return integer.leaky_relu(x, multipliers, shifts, _zero_point(self))


class Quantize(nn.Module):
  """float32 to centred int32."""

  @nn.compact
  def __call__(self, x):
    return integer.quantize(x, self.param("scale", _constant(0.01), ()), _zero_point(self))


class Dequantize(nn.Module):
  """Centred int32 to float32."""

  @nn.compact
  def __call__(self, x):
    return ordered.product(x, self.param("scale", _constant(0.01), ()))


def _weights(layer, shape):
  kernel = layer.param(
    "kernel", lambda key, s: jax.random.randint(key, s, -127, 128, jnp.int8), shape
  )
  return kernel, layer.param("bias", nn.initializers.zeros, shape[-1:], jnp.int32)


def _rounded(layer, x):
  """A sum of products in the scale of the layer's result."""
  multiplier = layer.param("multiplier", _constant(2**30), x.shape[-1:], jnp.int32)
  shift = layer.param("shift", _constant(-9), x.shape[-1:], jnp.int32)
  zero_point = layer.param("zero_point", nn.initializers.zeros, x.shape[-1:], jnp.int32)
  return integer.clip_to_int8(integer.rescale(x, multiplier, shift), zero_point)


def _factors(layer, count: int):
  multipliers = layer.param("multipliers", _constant(2**30), (count,), jnp.int32)
  return multipliers, layer.param("shifts", _constant(0), (count,), jnp.int32)


def _zero_point(layer):
  return layer.param("zero_point", nn.initializers.zeros, (), jnp.int32)


def _constant(value):
  return nn.initializers.constant(value)
