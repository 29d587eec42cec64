"""Orders in which a language model writes codes: a frame of Q codebooks in one step or in several.

A pattern says for each step s of a sequence, and each codebook q, the frame whose code stands there
or -1: integers [S, Q], in NumPy, as shapes depend on them. Each frame of each codebook stands in
one step. Shapes: B rows, T frames, S steps.
Source: MusicGen, https://arxiv.org/abs/2306.05284, section 2.2.
"""

import jax.numpy as jnp
import numpy as np


def flat_pattern(frames: int, codebooks: int) -> np.ndarray:
  """A code a step, frame by frame: each code can be foretold from all before it. S = T Q."""
  steps = np.arange(frames * codebooks)[:, None]
  return np.where(steps % codebooks == np.arange(codebooks), steps // codebooks, -1)


def parallel_pattern(frames: int, codebooks: int) -> np.ndarray:
  """A frame a step: the codes of a frame know nothing of each other. S = T."""
  return np.repeat(np.arange(frames)[:, None], codebooks, axis=1)


def delay_pattern(frames: int, codebooks: int) -> np.ndarray:
  """Codebook q is q steps late: a code can be foretold from the earlier ones of its frame.

  S = T + Q - 1.
  """
  found = np.arange(frames + codebooks - 1)[:, None] - np.arange(codebooks)
  return np.where((found >= 0) & (found < frames), found, -1)


def arranged(codes, pattern: np.ndarray):
  """Codes [B, T, Q] as the sequence [B, S, Q] of a pattern; -1 where it has no frame."""
  places = np.maximum(pattern, 0), np.arange(pattern.shape[1])
  return jnp.where(pattern < 0, -1, codes[:, *places])


def restored(sequence, pattern: np.ndarray):
  """The codes [B, T, Q] that `arranged` made the sequence of."""
  steps, books = np.nonzero(pattern >= 0)
  where = np.zeros((pattern.max() + 1, pattern.shape[1]), np.int64)
  where[pattern[steps, books], books] = steps
  return sequence[:, where, np.arange(pattern.shape[1])]
