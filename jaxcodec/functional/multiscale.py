"""Multi-scale residual quantization: coarse maps first, each coding what the coarser ones miss.

Shapes: z [B, S, S, D], codes int32 [B, L] with the tokens of all scales in turn, L the sum of
p^2 over the scales p; the last scale is S. Source: VAR, https://arxiv.org/abs/2404.02905,
algorithms 1 and 2; models/quant.py of its code.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.functional.codebook import lookup
from pallas_kernels import nearest_code


class MultiScaleParameters(NamedTuple):
  """codebook [K, D], and for each of P convolutions kernel [P, 3, 3, D, D] and bias [P, D]."""

  codebook: jax.Array
  kernels: jax.Array
  biases: jax.Array


class MultiScaleQuantized(NamedTuple):
  """`z` [B, S, S, D] with a gradient to the parameters alone, `codes` [B, L], and both losses."""

  z: jax.Array
  codes: jax.Array
  commitment: jax.Array
  codebook: jax.Array


def area_matrix(size: int, smaller: int) -> np.ndarray:
  """[smaller, size]: means over windows from floor(i n / m) to ceil((i + 1) n / m)."""
  matrix = np.zeros((smaller, size), np.float32)
  for i in range(smaller):
    start, end = i * size // smaller, -(-(i + 1) * size // smaller)
    matrix[i, start:end] = 1 / (end - start)
  return matrix


def bicubic_matrix(size: int, larger: int) -> np.ndarray:
  """[larger, size]: cubic convolution with a = -0.75, half-pixel centres, edges repeated."""
  matrix = np.zeros((larger, size), np.float32)
  for i in range(larger):
    place = (i + 0.5) * size / larger - 0.5
    whole = math.floor(place)
    for tap in range(-1, 3):
      weight = _cubic(abs(place - whole - tap))
      matrix[i, min(max(whole + tap, 0), size - 1)] += weight
  return matrix


def _cubic(x: float, a: float = -0.75) -> float:
  if x <= 1:
    return (a + 2) * x**3 - (a + 3) * x**2 + 1
  return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def which_convolution(num_scales: int, number: int) -> list[int]:
  """The convolution of each scale: the nearest of `number` ticks, as VAR's float64 has it."""
  third = 1 / 3 / number
  if number == 4:
    ticks = np.linspace(third, 1 - third, number)
  else:
    ticks = np.linspace(1 / 2 / number, 1 - 1 / 2 / number, number)
  places = [scale / max(num_scales - 1, 1) for scale in range(num_scales)]
  return [int(np.argmin(np.abs(ticks - place))) for place in places]


def multiscale_quantize(
  z, parameters: MultiScaleParameters, scales: tuple[int, ...], valid, ratio: float = 0.5
) -> MultiScaleQuantized:
  """Quantizes for training; `valid` bool [B, S, S], zeros of `z` outside it.

  Losses are means over scales of the mean of (sum so far - z)^2 over places that count and D: the
  commitment with the sum held still, the codebook's with z held still.
  """
  seen, size = jax.lax.stop_gradient(z), z.shape[1]
  inside = valid[..., None]
  number = jnp.maximum(valid.sum() * z.shape[-1], 1)
  rest, total, found, losses = seen, jnp.zeros_like(z), [], []
  choice = which_convolution(len(scales), parameters.kernels.shape[0])
  for step, scale in enumerate(scales):
    looked = _resize(rest, area_matrix(size, scale)) if scale != size else rest
    codes = nearest_code(looked, parameters.codebook)
    added = _added(codes, parameters, choice[step], size, ratio)
    total = total + added
    rest = jnp.where(inside, rest - jax.lax.stop_gradient(added), 0)
    held = jax.lax.stop_gradient(total)
    losses.append(
      [jnp.sum(jnp.where(inside, (a - b) ** 2, 0)) for a, b in ((z, held), (total, seen))]
    )
    found.append(codes.reshape(z.shape[0], scale**2))
  commitment, codebook = (sum(part) / len(scales) / number for part in zip(*losses, strict=True))
  # An image of which nothing counts has no tokens.
  codes = jnp.where(valid.any(axis=(1, 2))[:, None], jnp.concatenate(found, axis=1), -1)
  return MultiScaleQuantized(total, codes, commitment, codebook)


def multiscale_decode(
  codes, parameters: MultiScaleParameters, scales: tuple[int, ...], ratio: float = 0.5
):
  """[B, L] -> [B, S, S, D]; L may end after any scale, as a coarser picture. -1 adds nothing.

  Raises:
    ValueError: if L is not the number of tokens of the first scales.
  """
  ends = np.cumsum([scale**2 for scale in scales])
  if codes.shape[-1] not in ends:
    raise ValueError(f"codes {codes.shape} must end after a scale, at one of {ends.tolist()}")
  choice = which_convolution(len(scales), parameters.kernels.shape[0])
  shape = (codes.shape[0], scales[-1], scales[-1], parameters.codebook.shape[-1])
  total = jnp.zeros(shape, parameters.codebook.dtype)
  for step, (scale, end) in enumerate(zip(scales, ends, strict=True)):
    if end > codes.shape[-1]:
      break
    grid = codes[:, end - scale**2 : end].reshape(codes.shape[0], scale, scale)
    added = _added(grid, parameters, choice[step], scales[-1], ratio)
    total = total + jnp.where((codes >= 0).any(axis=1)[:, None, None, None], added, 0)
  return total


def _resize(x, matrix):
  """[B, p, p, D] to [B, q, q, D] by `matrix` [q, p] along both sides."""
  highest = jax.lax.Precision.HIGHEST
  x = jnp.einsum("ih,bhwd->biwd", matrix, x, precision=highest)
  return jnp.einsum("jw,biwd->bijd", matrix, x, precision=highest)


def _added(codes, parameters: MultiScaleParameters, choice: int, size: int, ratio: float):
  """What codes [B, p, p] add: entries, enlarged and passed through the scale's convolution."""
  entries = lookup(codes, parameters.codebook)
  if codes.shape[1] != size:
    entries = _resize(entries, bicubic_matrix(codes.shape[1], size))
  smooth = jax.lax.conv_general_dilated(
    entries,
    parameters.kernels[choice],
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=jax.lax.Precision.HIGHEST,
  )
  return (1 - ratio) * entries + ratio * (smooth + parameters.biases[choice])
