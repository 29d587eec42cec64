"""Masks of spectra, which runs on sound of different kinds share."""

import jax.numpy as jnp


def masked(mel, axis: int, start, stop):
  """Spectra [B, N, bands] with zeros where any mask is.

  Args:
    axis: 1, over frames, or 2, over bands.
    start, stop: [B, M], each mask's first place and the one after its last; equal for none.
  """
  place = jnp.arange(mel.shape[axis])
  hidden = ((place >= start[..., None]) & (place < stop[..., None])).any(axis=1)
  return jnp.where(jnp.expand_dims(hidden, 3 - axis), 0, mel)
