"""Discriminators of sound and pictures: they exist in training alone, so none of them streams.

The call of each gives a list of `Judgement`s, one for each of its parts. Sound is [B, T, C],
pictures are [B, H, W, C]. Parameters are float32 whatever `dtype` says of the computation. Kernels
have weight norm as in the sources (a direction and a gain), which changes how they learn.
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec.functional import spectral
from jaxcodec.training.losses import Judgement


class NormedConv(nn.Module):
  """Convolution over all axes but the first and the last, its kernels of learnt length.

  Attributes:
    features: output channels.
    kernel, strides, dilation: one number an axis.
    padding: zeros at each side, one number an axis.
    groups: parts of the channels that do not meet.
    normed: whether the kernel is `gain * direction / |direction|`, or free.
  """

  features: int
  kernel: tuple[int, ...]
  strides: tuple[int, ...]
  padding: tuple[int, ...]
  dilation: tuple[int, ...] = ()
  groups: int = 1
  normed: bool = True

  @nn.compact
  def __call__(self, x):
    shape = (*self.kernel, x.shape[-1] // self.groups, self.features)
    # PyTorch's start, uniform in +-1/sqrt(fan in).
    start = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    axes = tuple(range(len(shape) - 1))
    kernel = self.param("direction" if self.normed else "kernel", start, shape)
    if self.normed:
      size = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=axes) + 1e-12)
      gain = self.param("gain", lambda _: jax.lax.stop_gradient(size))
      kernel = kernel * (gain / size)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    sides = tuple((side, side) for side in self.padding)
    dilation = self.dilation or (1,) * len(self.strides)
    convolve = _conv if self.groups == 1 else functools.partial(_plain_conv, groups=self.groups)
    y = convolve(x, kernel.astype(x.dtype), self.strides, sides, dilation)
    return y + bias.astype(x.dtype)


def _plain_conv(x, kernel, strides, sides, dilation, groups: int = 1):
  spatial = "HWD"[: len(strides)]
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    strides,
    sides,
    rhs_dilation=dilation,
    dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
    feature_group_count=groups,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(x, kernel, strides, sides, dilation):
  """`_plain_conv` whose gradients are as fast on CPU as itself."""
  return _plain_conv(x, kernel, strides, sides, dilation)


def _conv_forward(x, kernel, *how):
  return _plain_conv(x, kernel, *how), (x, kernel)


def _conv_backward(strides, sides, dilation, kept, gradient):
  how = {"strides": strides, "sides": sides, "dilation": dilation}
  on_cpu = (_gradient_by_input_in_one, _gradient_by_kernel_in_parts)
  return tuple(
    jax.lax.platform_dependent(
      *kept, gradient, cpu=functools.partial(fast, **how), default=functools.partial(plain, **how)
    )
    for fast, plain in zip(on_cpu, (_gradient_by_input, _gradient_by_kernel), strict=True)
  )


_conv.defvjp(_conv_forward, _conv_backward)


def _gradient_by_input(x, kernel, gradient, **how):
  return jax.vjp(lambda x: _plain_conv(x, kernel, **how), x)[1](gradient)[0]


def _gradient_by_input_in_one(x, kernel, gradient, *, strides, sides, dilation):
  """As one convolution that gives a stride's samples as channels.

  XLA's own, between whose inputs are zeros, takes up to five times as long on CPU.
  """
  around, zeros, strided = [], [], []
  for axis, (stride, (before, _)) in enumerate(zip(strides, sides, strict=True)):
    size = x.shape[axis + 1]
    steps = gradient.shape[axis + 1]
    if stride > 1 and dilation[axis] == 1:
      kernel = _folded(kernel, axis, stride)
      first, last = before // stride, (size - 1 + before) // stride
      around.append((kernel.shape[axis] - 1 - first, last - (steps - 1)))
      zeros.append(1)
      strided.append((axis, stride, before % stride, size))
    else:
      reach = (kernel.shape[axis] - 1) * dilation[axis]
      around.append((reach - before, size - 1 + before - (steps - 1) * stride))
      zeros.append(stride)
  axes = tuple(range(len(strides)))
  spatial = "HWD"[: len(strides)]
  y = jax.lax.conv_general_dilated(
    gradient,
    jnp.flip(kernel, axes),
    (1,) * len(strides),
    around,
    lhs_dilation=zeros,
    rhs_dilation=dilation,
    dimension_numbers=(f"N{spatial}C", f"{spatial}OI", f"N{spatial}C"),
  )
  for axis, stride, start, size in reversed(strided):
    y = _unfolded(y, axis, stride)
    y = jax.lax.slice_in_dim(y, start, start + size, axis=axis + 1)
  return y


def _gradient_by_kernel(x, kernel, gradient, **how):
  return jax.vjp(lambda kernel: _plain_conv(x, kernel, **how), kernel)[1](gradient)[0]


_CACHED = 1 << 21  # Bytes that stay in a core's cache.
_MOST_PARTS = 16


def _gradient_by_kernel_in_parts(x, kernel, gradient, **how):
  """As a sum over examples.

  XLA goes through `gradient` once for each few entries of the kernel, which takes up to four times
  as long where no cache holds it.
  """
  rows = x.shape[0]
  fit = _CACHED // (gradient[0].size * gradient.dtype.itemsize)
  size = max(1, fit, -(-rows // _MOST_PARTS))
  size = 1 << (size.bit_length() - 1)  # Of three rows it takes three times as long as of four.
  if jax.device_count() > 1:
    size = rows  # Its rows lie over devices.
  parts = [slice(start, start + size) for start in range(0, rows, size)]
  return sum(_gradient_by_kernel(x[part], kernel, gradient[part], **how) for part in parts)


def _folded(kernel, axis: int, stride: int):
  """`kernel` [..., in, out] with a stride's taps along an axis as input channels."""
  taps = -(-kernel.shape[axis] // stride)
  widths = [(0, 0)] * kernel.ndim
  widths[axis] = 0, taps * stride - kernel.shape[axis]
  kernel = jnp.pad(kernel, widths)
  kernel = kernel.reshape(*kernel.shape[:axis], taps, stride, *kernel.shape[axis + 1 :])
  kernel = jnp.moveaxis(kernel, axis + 1, -3)
  return kernel.reshape(*kernel.shape[:-3], -1, kernel.shape[-1])


def _unfolded(y, axis: int, stride: int):
  """`y` [B, ..., stride * C] with the strides' samples along an axis: [B, ..., C]."""
  y = jnp.moveaxis(y.reshape(*y.shape[:-1], stride, -1), -2, axis + 2)
  shape = list(y.shape)
  shape[axis + 1 : axis + 3] = [-1]
  return y.reshape(shape)


def _leaky(x, slope: float):
  return nn.leaky_relu(x, slope)


class MultiScaleSTFT(nn.Module):
  """EnCodec's discriminator: 2-D convolutions over complex spectra at several scales.

  Source: https://arxiv.org/abs/2210.13438, section 3.4; encodec/msstftd.py of its code.

  Attributes:
    windows: samples of each scale's window, hops a quarter of them.
    filters: channels.
    slope: of the leaky ReLU, 0.2 in encodec and 0.3 in audiocraft.
    dtype: of the computation; spectra are float32.
  """

  windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
  filters: int = 32
  slope: float = 0.2
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x) -> list[Judgement]:
    return [self._scale(x, window) for window in self.windows]

  def _scale(self, x, window: int) -> Judgement:
    spectrum = spectral.stft(jnp.moveaxis(x, -1, 1), window, window // 4)
    parts = [jnp.moveaxis(part(spectrum), 1, -1) for part in (jnp.real, jnp.imag)]
    y = jnp.concatenate(parts, axis=-1).astype(self.dtype)
    # (dilation in time, stride in frequency) of each layer.
    features = []
    for i, (dilation, stride) in enumerate(((1, 1), (1, 2), (2, 2), (4, 2))):
      y = NormedConv(
        self.filters,
        (3, 9),
        (1, stride),
        (dilation, 4),
        (dilation, 1),
        normed=i > 0,
        name=f"conv_{window}_{i}",
      )(y)
      y = _leaky(y, self.slope)
      features.append(y)
    y = NormedConv(self.filters, (3, 3), (1, 1), (1, 1), name=f"conv_{window}_4")(y)
    y = _leaky(y, self.slope)
    features.append(y)
    return Judgement(NormedConv(1, (3, 3), (1, 1), (1, 1), name=f"head_{window}")(y), features)


class MultiPeriod(nn.Module):
  """HiFi-GAN's discriminator of periods: samples that are p apart, as rows of a picture.

  Source: https://arxiv.org/abs/2010.05646, section 2.3.

  Attributes:
    periods: samples between rows.
    widths: channels of the layers; all but the last have stride 3.
    always_pad: whether a signal that the period divides gets a whole period more, as in DAC.
    dtype: of the computation.
  """

  periods: tuple[int, ...] = (2, 3, 5, 7, 11)
  widths: tuple[int, ...] = (32, 128, 512, 1024, 1024)
  always_pad: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x) -> list[Judgement]:
    x = x.astype(self.dtype)
    return [self._period(x, period) for period in self.periods]

  def _period(self, x, period: int) -> Judgement:
    short = -x.shape[1] % period
    if self.always_pad and not short:
      short = period
    x = jnp.pad(x, ((0, 0), (0, short), (0, 0)), mode="reflect")
    # Columns are the phases: they share kernels and never meet.
    y = x.reshape(x.shape[0], -1, period, x.shape[2])
    features, last = [], len(self.widths) - 1
    for i, width in enumerate(self.widths):
      stride = 1 if i == last else 3
      layer = NormedConv(width, (5, 1), (stride, 1), (2, 0), name=f"conv_{period}_{i}")
      y = _leaky(layer(y), 0.1)
      features.append(y)
    return Judgement(NormedConv(1, (3, 1), (1, 1), (1, 0), name=f"head_{period}")(y), features)


class MultiScaleWave(nn.Module):
  """MelGAN's discriminator of waves at full, half and quarter rate, which SoundStream uses too.

  Source: https://arxiv.org/abs/1910.06711, section 2.2.

  Attributes:
    scales: rates, each half of the one before.
    width: channels of the first layer; they grow fourfold up to 1024 with every stride.
    strides: of the grouped layers, kernels of ten strides and one.
    dtype: of the computation.
  """

  scales: int = 3
  width: int = 16
  strides: tuple[int, ...] = (4, 4, 4, 4)
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x) -> list[Judgement]:
    x, found = x.astype(self.dtype), []
    for scale in range(self.scales):
      found.append(self._scale(x, scale))
      # Means of four samples, two apart, of those within the signal.
      x = nn.avg_pool(x, (4,), (2,), ((1, 1),), count_include_pad=False)
    return found

  def _scale(self, x, scale: int) -> Judgement:
    name = f"conv_{scale}"
    y = jnp.pad(x, ((0, 0), (7, 7), (0, 0)), mode="reflect")
    y = _leaky(NormedConv(self.width, (15,), (1,), (0,), name=f"{name}_0")(y), 0.2)
    features = [y]
    for i, stride in enumerate(self.strides, start=1):
      before = y.shape[-1]
      width, taps = min(before * 4, 1024), 10 * stride + 1
      layer = NormedConv(
        width, (taps,), (stride,), (5 * stride,), groups=max(1, before // 4), name=f"{name}_{i}"
      )
      y = _leaky(layer(y), 0.2)
      features.append(y)
    width, last = min(y.shape[-1] * 2, 1024), len(self.strides) + 1
    y = _leaky(NormedConv(width, (5,), (1,), (2,), name=f"{name}_{last}")(y), 0.2)
    features.append(y)
    return Judgement(NormedConv(1, (3,), (1,), (1,), name=f"head_{scale}")(y), features)


class MultiScaleGrouped(nn.Module):
  """HiFi-GAN's discriminator of waves at full, half and quarter rate: long kernels, many groups.

  All kernels have weight norm; the source has spectral norm at the full rate.
  Source: https://arxiv.org/abs/2010.05646, section 2.3; models.py of its code.

  Attributes:
    scales: rates, each half of the one before.
    width: channels of the first layer, a multiple of 16; they grow eightfold.
    dtype: of the computation.
  """

  scales: int = 3
  width: int = 128
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x) -> list[Judgement]:
    x, found = x.astype(self.dtype), []
    for scale in range(self.scales):
      found.append(self._scale(x, scale))
      x = nn.avg_pool(x, (4,), (2,), ((2, 2),))
    return found

  def _scale(self, y, scale: int) -> Judgement:
    features = []
    # (growth, taps, stride, groups) of each layer.
    layers = ((1, 15, 1, 1), (1, 41, 2, 4), (2, 41, 2, 16), (4, 41, 4, 16), (8, 41, 4, 16))
    for i, (growth, taps, stride, groups) in enumerate((*layers, (8, 41, 1, 16), (8, 5, 1, 1))):
      layer = NormedConv(
        self.width * growth,
        (taps,),
        (stride,),
        (taps // 2,),
        groups=groups,
        name=f"conv_{scale}_{i}",
      )
      y = _leaky(layer(y), 0.1)
      features.append(y)
    return Judgement(NormedConv(1, (3,), (1,), (1,), name=f"head_{scale}")(y), features)


class MultiBandSTFT(nn.Module):
  """DAC's discriminator: complex spectra at several scales, each band with layers of its own.

  Source: https://arxiv.org/abs/2306.06546, section 3.4; dac/model/discriminator.py of its code.

  Attributes:
    windows: samples of each scale's window, hops a quarter of them.
    bands: where bands end, as shares of the spectrum; the first begins at 0.
    filters: channels.
    dtype: of the computation; spectra are float32.
  """

  windows: tuple[int, ...] = (2048, 1024, 512)
  bands: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0)
  filters: int = 32
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x) -> list[Judgement]:
    return [self._scale(x, window) for window in self.windows]

  def _scale(self, x, window: int) -> Judgement:
    hop = window // 4
    side = (window - hop) // 2
    wave = jnp.moveaxis(x, -1, 1)
    right = side + -x.shape[1] % hop
    wave = jnp.pad(wave, ((0, 0), (0, 0), (side, right)), mode="reflect")
    # DAC reflects half a window more, and drops the two frames at each end that touch only that.
    spectrum = spectral.stft(wave, window, hop) * (3 * window / 8) ** 0.5
    parts = [jnp.moveaxis(part(spectrum), 1, -1) for part in (jnp.real, jnp.imag)]
    y = jnp.concatenate(parts, axis=-1).astype(self.dtype)
    bins = window // 2 + 1
    edges = [0, *(int(share * bins) for share in self.bands)]
    bands, features = [], []
    for band, (start, end) in enumerate(itertools.pairwise(edges)):
      z = y[:, :, start:end]
      for i in range(5):
        kernel = (3, 9) if i < 4 else (3, 3)
        layer = NormedConv(
          self.filters,
          kernel,
          (1, 2 if 0 < i < 4 else 1),
          (1, kernel[1] // 2),
          name=f"conv_{window}_{band}_{i}",
        )
        z = _leaky(layer(z), 0.1)
        features.append(z)
      bands.append(z)
    head = NormedConv(1, (3, 3), (1, 1), (1, 1), name=f"head_{window}")
    return Judgement(head(jnp.concatenate(bands, axis=2)), features)


class Normalised(nn.Module):
  """A discriminator that is given zero-mean sound with a peak of 0.8, as DAC's are."""

  inner: tuple[nn.Module, ...]

  @nn.compact
  def __call__(self, x) -> list[Judgement]:
    x = x - x.mean(axis=1, keepdims=True)
    x = 0.8 * x / (jnp.abs(x).max(axis=1, keepdims=True) + 1e-9)
    return [judged for module in self.inner for judged in module(x)]


class PatchGAN(nn.Module):
  """The discriminator of patches of pictures of pix2pix, with VQGAN's layers.

  Norms take their statistics from the batch, as PyTorch's do in training; none are kept.
  Source: https://arxiv.org/abs/1611.07004; taming/modules/discriminator/model.py.

  Attributes:
    layers: of stride 2.
    width: channels of the first; they double up to eightfold.
    dtype: of the computation.
  """

  layers: int = 3
  width: int = 64
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x) -> list[Judgement]:
    y, features = x.astype(self.dtype), []
    for i in range(self.layers + 1):
      stride = 2 if i < self.layers else 1
      y = nn.Conv(
        self.width * min(2**i, 8),
        (4, 4),
        (stride, stride),
        padding=1,
        use_bias=i == 0,
        kernel_init=nn.initializers.normal(0.02),
        dtype=self.dtype,
        name=f"conv_{i}",
      )(y)
      if i > 0:
        y = self._batch_norm(y, f"norm_{i}")
      y = _leaky(y, 0.2)
      features.append(y)
    head = nn.Conv(
      1, (4, 4), padding=1, kernel_init=nn.initializers.normal(0.02), dtype=self.dtype, name="head"
    )
    return [Judgement(head(y), features)]

  def _batch_norm(self, x, name: str):
    def near_one(key, shape):
      return 1 + 0.02 * jax.random.normal(key, shape)

    scale = self.param(f"{name}_scale", near_one, (x.shape[-1],))
    bias = self.param(f"{name}_bias", nn.initializers.zeros, (x.shape[-1],))
    y = x.astype(jnp.float32)
    mean, variance = y.mean(axis=(0, 1, 2)), y.var(axis=(0, 1, 2))
    return (scale * (y - mean) * jax.lax.rsqrt(variance + 1e-5) + bias).astype(self.dtype)
