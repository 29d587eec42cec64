"""Two-dimensional convolutions of pictures as pure functions.

Shapes: x [B, H, W, C], kernels [height, width, in, out].
"""

import jax
import jax.numpy as jnp
import numpy as np

_FEW = 16  # Below this, many small convolutions take longer than the zeros of one.


def conv2d(x, kernel, bias=None, *, stride: int = 1, rows_around: bool = False):
  """Convolution of an odd kernel with zeros around the picture: ceil(H / stride) rows come out.

  With `rows_around` x begins and ends with the rows that stand for those zeros, of the same number.
  """
  pads = [(size // 2, size // 2) for size in kernel.shape[:2]]
  if rows_around:
    pads[0] = (0, 0)
  y = jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return y if bias is None else y + bias


def conv2d_transpose(x, kernel, bias=None, *, stride: int, rows_around: bool = False):
  """Transposed convolution of an odd kernel to [B, H * stride, W * stride, out].

  As PyTorch's with padding size // 2 and output padding stride - 1. Written as a convolution for
  each of the stride^2 outputs of a place, or with few features as one for all of them, because
  XLA's weight gradient of a convolution with dilated input is tens of times slower on CPU. One for
  all multiplies by zeros too, 36 taps for 25: with many features that takes a third longer.

  With `rows_around` x begins and ends with rows that stand for zeros around the picture:
  `transposed_reach` of them.
  """
  features, reach = kernel.shape[-1], transposed_reach(kernel.shape[0], stride)
  if features < _FEW:
    kernel, pads = subpixel_kernel(kernel, stride)
    y = _convolved(x, kernel, [(0, 0), pads[1]] if rows_around else pads)
  else:
    parts = []
    for down in range(stride):
      for right in range(stride):
        rows, above = _taps(kernel.shape[0], stride, down)
        columns, left = _taps(kernel.shape[1], stride, right)
        seen = x
        if rows_around:
          seen = x[:, reach[0] - above[0] : x.shape[1] - reach[1] + above[1]]
          above = (0, 0)
        parts.append(_convolved(seen, kernel[rows][:, columns], [above, left]))
    y = jnp.stack(parts, axis=-2)
    y = y.reshape(*y.shape[:3], -1)
  y = depth_to_space(y, stride)
  return y if bias is None else y + bias


def subpixel_kernel(kernel, stride: int):
  """`(kernel [taps, taps, in, stride^2 out], pads)` of the convolution that gives every output of a
  transposed one, the outputs of an input's place as channels [stride, stride, out]."""
  size, features = kernel.shape[0], kernel.shape[2:]
  before, after = transposed_reach(size, stride)
  taps = before + after + 1
  # Output m stride + p meets input m + d by tap p + size // 2 - stride d; others are zero.
  tap = np.arange(stride) + size // 2 - stride * np.arange(-before, after + 1)[:, None]
  tap = np.where((tap >= 0) & (tap < size), tap, size)
  padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
  parts = padded[tap[:, :, None, None], tap]  # [taps, phase, taps, phase, in, out]
  parts = parts.transpose(0, 2, 4, 1, 3, 5).reshape(taps, taps, features[0], -1)
  return parts, [(before, after)] * 2


def transposed_reach(size: int, stride: int) -> tuple[int, int]:
  """How many inputs before and after its own place an output of a transposed convolution meets."""
  return (size - 1 - size // 2) // stride, (stride - 1 + size // 2) // stride


def _taps(size: int, stride: int, phase: int) -> tuple[np.ndarray, tuple[int, int]]:
  """The taps that output `phase` of a place meets, from the first input on, and how many inputs
  before and after the place they reach."""
  taps = np.arange((phase + size // 2) % stride, size, stride)[::-1]
  offsets = (phase + size // 2 - taps) // stride
  return taps, (int(-offsets[0]), int(offsets[-1]))


def _convolved(x, kernel, pads):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@jax.custom_vjp
def depthwise_conv2d(x, kernel, bias):
  """Each channel convolved by its own odd kernel [height, width, C], zeros around the picture.

  As shifted products: XLA's convolution of groups of one channel is several times slower on CPU.
  The gradient is written out, as that of slices is a sum of padded pictures, slow to compile.
  """
  rows, columns, _ = kernel.shape
  padded, (height, width) = _zeros_around(x, kernel), x.shape[1:3]
  y = bias
  for i in range(rows):
    for j in range(columns):
      y = y + padded[:, i : i + height, j : j + width] * kernel[i, j]
  return y


def _depthwise_fwd(x, kernel, bias):
  return depthwise_conv2d(x, kernel, bias), (x, kernel)


def _depthwise_bwd(residuals, g):
  x, kernel = residuals
  padded, columns = _zeros_around(x, kernel), kernel.shape[1]

  def of_tap(tap):
    seen = jax.lax.dynamic_slice(padded, (0, tap // columns, tap % columns, 0), x.shape)
    return (seen * g).sum(axis=(0, 1, 2))

  of_kernel = jax.lax.map(of_tap, jnp.arange(kernel.shape[0] * columns)).reshape(kernel.shape)
  of_x = depthwise_conv2d(g, kernel[::-1, ::-1], jnp.zeros_like(kernel[0, 0]))
  return of_x, of_kernel, g.sum(axis=(0, 1, 2))


depthwise_conv2d.defvjp(_depthwise_fwd, _depthwise_bwd)


def _zeros_around(x, kernel):
  down, right = kernel.shape[0] // 2, kernel.shape[1] // 2
  return jnp.pad(x, ((0, 0), (down, down), (right, right), (0, 0)))


def depth_to_space(x, factor: int):
  """[B, H, W, factor^2 C], the channels as [factor, factor, C], to [B, H factor, W factor, C]."""
  batch, height, width, _ = x.shape
  x = x.reshape(batch, height, width, factor, factor, -1)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * factor, width * factor, -1)


def space_to_depth(x, factor: int):
  """The inverse of `depth_to_space`, for sides that are multiples of `factor`."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, height // factor, width // factor, factor**2 * channels)


def checkerboard(height: int, width: int):
  """bool [H, W, 1], true where row and column add up to an even number."""
  return ((jnp.arange(height)[:, None] + jnp.arange(width)) % 2 == 0)[..., None]


def checkerboard_mask(size: int) -> np.ndarray:
  """float32 [size, size, 1, 1]: the taps that see the other colour of the centre's, `size` odd."""
  rows = np.arange(size)
  return ((rows[:, None] + rows) % 2 == 1).astype(np.float32)[..., None, None]


def raster_mask(size: int) -> np.ndarray:
  """float32 [size, size, 1, 1]: the taps before the centre in reading order."""
  order = np.arange(size * size).reshape(size, size, 1, 1)
  return (order < size * size // 2).astype(np.float32)


def generalized_norm(x, beta, gamma, *, inverse: bool = False):
  """x / sqrt(beta + x^2 gamma) over the channels of x [..., C], or times it if `inverse`.

  Source: Ballé et al., https://arxiv.org/abs/1511.06281.
  """
  power = jnp.dot(x * x, gamma) + beta
  return x * (jnp.sqrt(power) if inverse else jax.lax.rsqrt(power))
