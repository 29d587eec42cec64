"""Transforms that begin as principal components: a linear codec before the first step.

Of patches: squares of 8 x 8 pixels turn to the N components of most energy, and squares of 2 x 2
of these to M. Of four convolutions with divisive norms: each turns squares of 2 x 2 of what it is
given to its components. Synthesis is the transpose. With norms that start near the identity this
decodes at once what a short training from random weights does not come to.
"""

import functools
import math

import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.layers.gdn import root
from jaxcodec.training.state import TrainState

_GAMMA = 0.02
_PIXELS = 48  # Samples of a patch of 4 x 4.


def begun(state: TrainState, key, data, step: int, place, config) -> TrainState:
  """The state with transforms from the first `config.principal_batches`, before step 0."""
  del key
  if not config.principal_batches or step:
    return state
  x = jnp.concatenate([place(data[i]) for i in range(min(len(data), config.principal_batches))])
  start = jax.jit(functools.partial(with_components, lambdas=config.lambdas))
  params = start(state.params, x)
  new = state._replace(params=params, average=jax.tree.map(jnp.copy, params))
  # Placed as they were: the step is compiled for that.
  return jax.tree.map(lambda a, b: jax.device_put(a, b.sharding), new, state)


def fits(params) -> bool:
  """Whether a codec has transforms that can begin so: of patches, or convolutions and GDN."""
  return _starts(params) is not None


def _starts(params):
  second = params.get("g_a", {}).get("layers_1", {})
  if "gamma" in second:
    return _of_squares
  kernel = second.get("kernel", jnp.zeros(()))
  patches = kernel.shape[:3] == (3, 3, _PIXELS) and kernel.shape[3] >= _PIXELS
  return _of_patches if patches else None


def with_components(params, x, *, lambdas: tuple[float, float]):
  """Parameters of a codec that `fits`, from pictures x in [-1, 1].

  Gains are those of the rounding steps that are best for independent components: the squared step
  is 26 / lambda for samples from 0 to 255, where a bit and an error are worth the same.
  """
  low, high = (math.log(255 * math.sqrt(lam / 26)) for lam in lambdas)
  start = _starts(params)
  assert start is not None
  drawn = dict(params["g_a"]), dict(params["g_s"])
  if "gains" not in params:
    g_a, g_s = start(*drawn, x / 2, math.exp(low))
    return params | {"g_a": g_a, "g_s": g_s}
  g_a, g_s = start(*drawn, x / 2, 1.0)
  logs = params["gains"]["logarithms"]
  logs = jnp.broadcast_to(jnp.linspace(low, high, len(logs))[:, None], logs.shape)
  gains = {"gains": {"logarithms": logs}, "inverse_gains": {"logarithms": -logs}}
  return params | {"g_a": g_a, "g_s": g_s} | gains


def _of_patches(g_a, g_s, x, gain: float):
  """Both transforms, from pictures x in [-1/2, 1/2]; latents are `gain` times the components."""
  filters, latents = g_a["layers_7"]["kernel"].shape[2:]
  first = F.space_to_depth(F.space_to_depth(x, 4), 2)
  inner = _components(first, filters)
  outer = _components(F.space_to_depth(first @ inner, 2), latents)
  inner, outer = inner.reshape(2, 2, _PIXELS, filters), outer.reshape(2, 2, filters, latents)

  patch = g_a["layers_1"]["kernel"].at[..., :_PIXELS].set(0)
  patch = patch.at[1, 1, :, :_PIXELS].set(jnp.eye(_PIXELS))
  shift = jnp.where(jnp.arange(filters) < _PIXELS, -0.5, 0.0)
  down = jnp.zeros_like(g_a["layers_4"]["kernel"]).at[2:4, 2:4, :_PIXELS].set(inner)
  last = jnp.zeros_like(g_a["layers_7"]["kernel"]).at[2:4, 2:4].set(gain * outer)
  up = jnp.zeros_like(g_s["layers_0"]["transposed_kernel"])
  up = up.at[2:4, 2:4].set(outer.swapaxes(2, 3) / gain)
  wide = g_s["layers_4"]["transposed_kernel"].at[..., :_PIXELS].set(0)
  wide = wide.at[2:4, 2:4, :, :_PIXELS].set(inner.swapaxes(2, 3))
  shuffled = jnp.zeros_like(g_s["layers_7"]["shuffled"]["kernel"])
  shuffled = shuffled.at[1, 1, :_PIXELS].set(jnp.eye(_PIXELS))

  g_a |= {"layers_1": {"kernel": patch, "bias": shift}}
  g_a |= {"layers_4": {"kernel": down, "bias": jnp.zeros(filters)}}
  g_a |= {"layers_7": {"kernel": last, "bias": jnp.zeros(latents)}}
  g_a |= {name: _near_identity(g_a[name]) for name in ("layers_2", "layers_5")}
  g_a |= {name: _identity(g_a[name]) for name in ("layers_3", "layers_6")}
  g_s |= {"layers_0": {"transposed_kernel": up, "bias": jnp.zeros(filters)}}
  g_s |= {"layers_4": {"transposed_kernel": wide, "bias": jnp.zeros(filters)}}
  g_s |= {name: _near_identity(g_s[name]) for name in ("layers_1", "layers_5")}
  g_s |= {name: _identity(g_s[name]) for name in ("layers_2", "layers_3", "layers_6")}
  g_s |= {"layers_7": {"shuffled": {"kernel": shuffled, "bias": jnp.full(_PIXELS, 0.5)}}}
  return g_a, g_s


def _of_squares(g_a, g_s, x, gain: float):
  """As `_of_patches`; filters that no component needs stay as drawn, and nothing heeds them yet."""
  centre = 0.5
  for position in range(4):
    down, up = f"layers_{2 * position}", f"layers_{6 - 2 * position}"
    given, scale = x.shape[-1], gain if position == 3 else 1.0
    squares = F.space_to_depth(x, 2)
    basis = _components(squares, g_a[down]["kernel"].shape[-1])
    x, count = squares @ basis, basis.shape[-1]
    taps = basis.reshape(2, 2, given, count)

    kernel = g_a[down]["kernel"].at[..., :count].set(0)
    kernel = kernel.at[2:4, 2:4, :given, :count].set(scale * taps)
    g_a |= {down: {"kernel": kernel, "bias": -centre * kernel.sum(axis=(0, 1, 2))}}
    kernel = g_s[up]["transposed_kernel"].at[:, :, :count].set(0)
    kernel = kernel.at[2:4, 2:4, :count, :given].set(taps.swapaxes(2, 3) / scale)
    bias = jnp.full_like(g_s[up]["bias"], centre)
    g_s |= {up: {"transposed_kernel": kernel, "bias": bias}}
    centre = 0.0  # Of pictures alone.
  norms = ("layers_1", "layers_3", "layers_5")
  g_a |= {name: _near_identity(g_a[name]) for name in norms}
  return g_a, g_s | {name: _near_identity(g_s[name]) for name in norms}


def _near_identity(norm):
  return norm | {"gamma": root(_GAMMA * jnp.eye(len(norm["gamma"])))}


def _identity(block):
  """A residual block whose branch gives nothing yet."""
  return block | {"conv2": jax.tree.map(jnp.zeros_like, block["conv2"])}


def _components(x, count: int):
  """[C, count] of x [..., C], those of most energy first."""
  rows = x.reshape(-1, x.shape[-1])
  energy = jnp.matmul(rows.T, rows, precision=jax.lax.Precision.HIGHEST)
  _, vectors = jnp.linalg.eigh(energy)
  return vectors[:, ::-1][:, :count]
