"""Parameters for tests, about as large as trained ones are."""

import jax
import jax.numpy as jnp
import numpy as np


def draw_params(module, *inputs, seed=0):
  """What `module.init` would make of inputs, drawn by NumPy, as compiling `init` takes seconds.

  No bias is zero and no scale trivial.
  """
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name, spread = path[-1].key, rng.normal(size=leaf.shape)
    if name == "codebooks":
      return spread
    if leaf.ndim == 1:  # A gain of one for what scales, about zero for what is added.
      return 0.1 * spread + (name in ("alpha", "scale"))
    return spread * np.prod(leaf.shape[:-1]) ** -0.5

  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
  drawn = jax.tree_util.tree_map_with_path(draw, shapes)
  return jax.tree.map(lambda leaf, shape: jnp.asarray(leaf, shape.dtype), drawn, shapes)
