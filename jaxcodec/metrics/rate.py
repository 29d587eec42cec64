"""What codes cost and how well they are spent: bitrate of a file, use of the codebooks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class CodebookUse(NamedTuple):
  """Per codebook, float64 `[Q]`.

  Attributes:
    used: share of the entries that occur at all, in (0, 1].
    perplexity: the exponential of the entropy of the codes, from 1 to the codebook's size: as many
      entries, equally often, would carry as much.
  """

  used: NDArray[np.float64]
  perplexity: NDArray[np.float64]


def codebook_use(codes: ArrayLike, codebook_sizes: Sequence[int]) -> CodebookUse:
  """How much of each codebook the codes use; few frames cannot use a large one.

  Args:
    codes: integers `[..., Q]`.
    codebook_sizes: entries of each codebook, Q of them.

  Raises:
    ValueError: if the shapes do not fit, there is no frame, or a code is outside its codebook.
  """
  array, sizes = np.asarray(codes), tuple(codebook_sizes)
  if not np.issubdtype(array.dtype, np.integer):
    raise ValueError(f"codes must be integers, got {array.dtype}")
  if array.ndim == 0 or array.shape[-1] != len(sizes) or array.size == 0:
    raise ValueError(f"codes must be [..., {len(sizes)}], not empty; got {array.shape}")
  rows = array.reshape(-1, len(sizes))
  used, perplexity = [], []
  for q, size in enumerate(sizes):
    if rows[:, q].min() < 0 or rows[:, q].max() >= size:
      raise ValueError(f"codebook {q} has {size} entries, a code is outside of it")
    shares = np.bincount(rows[:, q], minlength=size) / len(rows)
    shares = shares[shares > 0]
    used.append(len(shares) / size)
    perplexity.append(np.exp(-np.sum(shares * np.log(shares))))
  return CodebookUse(np.array(used), np.array(perplexity))


def bitrate(num_bytes: int, seconds: float) -> float:
  """Bits per second of a file of `num_bytes`, whatever they are spent on.

  Raises:
    ValueError: if the size is negative or the duration is not a positive number.
  """
  if num_bytes < 0 or not 0 < seconds < float("inf"):
    raise ValueError(f"a file of {num_bytes} bytes and {seconds} s has no bitrate")
  return 8 * num_bytes / seconds
