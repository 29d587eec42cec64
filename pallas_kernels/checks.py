"""Types of arguments that the ops would otherwise truncate."""

import jax
import jax.numpy as jnp


def floating(**arrays: jax.Array) -> None:
  """Raises ValueError, naming it, if an array is of no float type."""
  _check(jnp.floating, "of a float type", arrays)


def integers(**arrays: jax.Array) -> None:
  """Raises ValueError, naming it, if an array has other things than integers."""
  _check(jnp.integer, "integers", arrays)


def _check(kind, words: str, arrays: dict[str, jax.Array]) -> None:
  for name, x in arrays.items():
    if not jnp.issubdtype(x.dtype, kind):
      raise ValueError(f"{name} must be {words}, got {x.dtype} {x.shape}")
