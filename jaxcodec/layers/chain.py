"""Running layers one after another, over signals that come whole or in chunks.

Every streaming layer is called as `y, state = layer(x, state, final, length)`: `state=None` says
that the signal starts with `x`, `final` that it ends with it, `length` [B] how many steps of `x`
exist in each row (None: all). A layer that changes the number of steps says in `absent_after` what
becomes of those that do not exist; with lengths, signals come in whole strides of every layer.
"""

from typing import Any

import jax.numpy as jnp


class Chain:
  """Runs layers in turn: gathers their states under their names and follows the rows' lengths."""

  def __init__(self, state, final: bool, length=None):
    self.before, self.final, self.length = state, final, length
    self.after: dict[str, Any] = {}

  def __call__(self, layer, x):
    before = None if self.before is None else self.before[layer.name]
    y, self.after[layer.name] = layer(x, before, self.final, self.length)
    if self.length is not None:
      # Counted from the end: a layer that lags gives more steps than its share there.
      absent = x.shape[1] - self.length
      absent = layer.absent_after(absent) if hasattr(layer, "absent_after") else absent
      self.length = y.shape[1] - absent
    return y

  def add(self, x, y):
    """`x + y` where `y` may lag behind `x`, as centred convolutions do in a stream."""
    if self.before is not None:
      x = jnp.concatenate([self.before["lag"], x], axis=1)
    self.after["lag"] = x[:, y.shape[1] :]
    return x[:, : y.shape[1]] + y

  def level(self, *branches):
    """What all branches have, as they may lag by different numbers of steps; the rest waits."""
    if self.before is not None:
      pairs = zip(self.before["ahead"], branches, strict=True)
      branches = tuple(jnp.concatenate(pair, axis=1) for pair in pairs)
    steps = min(y.shape[1] for y in branches)
    self.after["ahead"] = tuple(y[:, steps:] for y in branches)
    return [y[:, :steps] for y in branches]
