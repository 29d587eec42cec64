"""A causal Transformer over a sliding window, for signals that come whole or in chunks."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F


class TransformerLayer(nn.Module):
  """Pre-norm attention and feed-forward, each branch scaled per feature: [B, T, D] -> same.

  Attributes:
    num_heads, window, base: see `WindowTransformer`.
    hidden: width of the feed-forward part.
  """

  num_heads: int
  hidden: int
  window: int
  base: float

  @nn.compact
  def __call__(self, x, position, past):
    width = x.shape[-1]

    def dense(features: int, name: str):
      return nn.Dense(features, use_bias=False, name=name)

    def norm(name: str):
      return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)

    def scale(name: str):
      return self.param(name, nn.initializers.constant(0.01), (width,))

    def heads(x):
      return x.reshape(*x.shape[:2], self.num_heads, width // self.num_heads)

    y = norm("attention_norm")(x)
    q, k, v = jnp.split(dense(3 * width, "qkv")(y), 3, axis=-1)
    q, k = (F.rotary(heads(part), position, self.base) for part in (q, k))
    k, v = (jnp.concatenate([p, n], axis=1) for p, n in zip(past, (k, heads(v)), strict=True))
    y = F.window_attention(q, k, v, position, self.window).reshape(x.shape).astype(x.dtype)
    x = x + scale("attention_scale") * dense(width, "out")(y)
    y = dense(self.hidden, "up")(norm("feed_forward_norm")(x))
    y = dense(width, "down")(nn.gelu(y, approximate=False))
    end = k.shape[1] - (self.window - 1)
    return x + scale("feed_forward_scale") * y, (k[:, end:], v[:, end:])


class WindowTransformer(nn.Module):
  """Layers over one window: `[B, T, D] -> ([B, T, D], state)`, called as in `layers.chain`.

  The state holds the keys and values of the last `window - 1` steps of every layer, and how many
  steps each row has seen.

  Attributes:
    num_layers, num_heads: of width D, each head D / num_heads wide.
    hidden: width of the feed-forward parts.
    window: steps that one step sees, itself included.
    base: of the rotary embedding's frequencies.
    scan: whether the layers are one whose weights, below "layers", have them as their first axis:
      a program that is compiled in the time of one layer. Else they are "layer_0", "layer_1", ...
  """

  num_layers: int
  num_heads: int
  hidden: int
  window: int
  base: float = 10_000.0
  scan: bool = False

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    del final, length  # Nothing is padded, and no step sees a later one.
    batch, steps, width = x.shape
    if state is None:
      shape = (batch, self.window - 1, self.num_heads, width // self.num_heads)
      nothing = (jnp.zeros(shape, x.dtype),) * 2
      state = {"position": jnp.zeros(batch, jnp.int32), "past": (nothing,) * self.num_layers}
    position, past = state["position"], []
    fields = self.num_heads, self.hidden, self.window, self.base
    if self.scan:
      layers = nn.scan(
        TransformerLayer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, 0),
        length=self.num_layers,
      )
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *state["past"])
      x, after = layers(*fields, name="layers")(x, position, stacked)
      past = [jax.tree.map(lambda leaf, i=i: leaf[i], after) for i in range(self.num_layers)]
    else:
      for i in range(self.num_layers):
        x, after = TransformerLayer(*fields, name=f"layer_{i}")(x, position, state["past"][i])
        past.append(after)
    return x, {"position": position + steps, "past": tuple(past)}
