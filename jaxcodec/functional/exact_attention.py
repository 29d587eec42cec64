"""Attention and norms in whole numbers on the host, beside `functional.exact`.

Arrays are float64 that hold whole numbers in units of 1 / 4096. Sums are of whole numbers below
2^53, so their order does not matter; between them stand single products, quotients and roots, which
every machine rounds alike, each rounded to a whole number at once.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxcodec.functional import exact, exact_curves
from jaxcodec.functional.exact import LIMIT, UNIT
from jaxcodec.functional.picture_attention import window_rotation

# So large are values at most (64 in real terms) where a million of them are added, times weights
# of 2^14: no file has more places.
_MOST_VALUE = 1 << 18
_MOST_NORMED = 1 << 21
_TURN = 1 << 14  # The unit of sines.


class Norm(NamedTuple):
  """A layer norm over the last axis.

  Attributes:
    scale: real factors [C].
    bias: whole numbers [C].
    epsilon: added to the variance, in real terms.
  """

  scale: np.ndarray
  bias: np.ndarray
  epsilon: float


def norm(scale, bias, epsilon: float) -> Norm:
  return Norm(np.asarray(scale, np.float32).astype(np.float64), exact.whole(bias), epsilon)


def normed(layer: Norm, x: np.ndarray) -> np.ndarray:
  """x [..., C] less its mean and over its deviation, each rounded."""
  size = x.shape[-1]
  x = np.clip(x, -_MOST_NORMED, _MOST_NORMED)
  x = x - np.rint(x.sum(axis=-1, keepdims=True) / size)
  variance = np.square(x).sum(axis=-1, keepdims=True) / size
  deviation = np.sqrt(variance + layer.epsilon * UNIT**2)
  return _limited(x / deviation * (UNIT * layer.scale) + layer.bias)


def neighbours(x: np.ndarray, size: int) -> np.ndarray:
  """As `functional.neighbours`, of one picture: [h, w, C] to [h w, size^2, C]."""
  reach, (height, width, features) = size // 2, x.shape
  padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)))
  parts = [padded[i : i + height, j : j + width] for i in range(size) for j in range(size)]
  return np.stack(parts, axis=2).reshape(height * width, size * size, features)


def local_attention(q, k, v, bias: Any, known: np.ndarray) -> np.ndarray:
  """As `functional.local_attention`: q, k, v [N, W, H, D], bias [H, W, W], known bool [N, W].

  Queries at places that are known see known keys alone, others all.
  """
  q, k, v = (np.moveaxis(x, 2, 1) for x in (q, k, v))
  scores = np.rint(q @ k.swapaxes(-1, -2) * (1 / np.sqrt(q.shape[-1]) / UNIT)) + bias
  seen = (known[:, None, :] | ~known[:, :, None])[:, None]
  most = np.where(seen, scores, -np.inf).max(axis=-1, keepdims=True)
  weights = np.where(seen, exact_curves.decay(np.maximum(most - scores, 0)), 0)
  y = np.rint(weights @ v / weights.sum(axis=-1, keepdims=True))
  return np.moveaxis(y, 1, 2)


def turned(x: np.ndarray, size: int) -> np.ndarray:
  """x [N, W, H, D] of windows of `size`^2, its pairs of features turned by `window_rotation`."""
  angles = window_rotation(size, x.shape[-1])[:, None]
  cosine, sine = (np.rint(_TURN * f(angles)) for f in (np.cos, np.sin))
  first, second = np.split(x, 2, axis=-1)
  pairs = [first * cosine - second * sine, first * sine + second * cosine]
  return np.rint(np.concatenate(pairs, axis=-1) / _TURN)


def linear_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
  """As `functional.linear_attention`: q [N, H, D], k and v [K, H, D], to [N, H, D]."""
  q, k, v = (np.moveaxis(x, 0, 1) for x in (q, k, np.clip(v, -_MOST_VALUE, _MOST_VALUE)))
  weights = exact_curves.decay(k.max(axis=1, keepdims=True) - k)
  total = weights.sum(axis=1)[..., None]
  context = np.rint(weights.swapaxes(1, 2) @ v / total)
  weights = exact_curves.decay(q.max(axis=-1, keepdims=True) - q)
  y = np.rint(weights @ context / weights.sum(axis=-1, keepdims=True))
  return np.moveaxis(y, 0, 1)


def mean(x: np.ndarray) -> np.ndarray:
  """[1, 1, C], over the places of x [h, w, C]."""
  return np.rint(x.sum(axis=(0, 1), keepdims=True) / (x.shape[0] * x.shape[1]))


def _limited(x: np.ndarray) -> np.ndarray:
  return np.clip(np.rint(x), -LIMIT, LIMIT)
