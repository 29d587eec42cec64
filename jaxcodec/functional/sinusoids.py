"""Sines and cosines of positions, as constants."""

import numpy as np


def _angles(positions: np.ndarray, features: int) -> np.ndarray:
  """[N, features // 2] at frequencies 10,000^(-2 i / features)."""
  rates = 10_000.0 ** (-np.arange(0, features, 2) / features)
  return positions[:, None] * rates


def sinusoids(count: int, features: int) -> np.ndarray:
  """float32 [count, features]: sine and cosine in turn, as of the first Transformer."""
  angles = _angles(np.arange(count), features)
  return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(count, -1).astype(np.float32)


def grid_sinusoids(rows: int, columns: int, features: int) -> np.ndarray:
  """float32 [rows * columns, features], row by row: sines and cosines of the column, then of the
  row, a quarter of the features each. `features` is a multiple of 4."""
  row, column = np.divmod(np.arange(rows * columns), columns)
  parts = [_angles(part, features // 2) for part in (column, row)]
  waves = [wave(part) for part in parts for wave in (np.sin, np.cos)]
  return np.concatenate(waves, axis=-1).astype(np.float32)
