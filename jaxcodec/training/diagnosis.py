"""Why a run's numbers are no longer finite: which loss, which gradients, which layer."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec.data.sound import signal_of
from jaxcodec.training.config import Train
from jaxcodec.training.state import TrainState


def diagnose(state: TrainState, batch, finite, config: Train) -> str:
  """One line for a batch whose step was skipped.

  Args:
    finite: of the step's metrics.
  """
  batch = signal_of(batch)
  if not bool(jnp.isfinite(batch).all()):
    return "the batch itself holds numbers that are not finite"
  layer = first_bad_layer(state.params, batch, config)
  parts = [f"first layer whose output is not finite: {layer}"] if layer else []
  wanted = {"codec": state.params}
  if config.adversary is not None:
    wanted["discriminators"] = state.discriminators
  return bad_numbers(wanted, finite, parts)


def bad_numbers(wanted, finite, parts: Sequence[str] = ()) -> str:
  """Which losses, `parts` of what was found else, and which gradients of `wanted`, in one line."""
  bad_losses = [name for name, good in finite["losses"].items() if not bool(good)]
  lines = [f"loss {', '.join(sorted(bad_losses))}"] if bad_losses else []
  lines += parts
  paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(wanted)]
  named = zip(paths, finite["gradients"], strict=True)
  bad = [jax.tree_util.keystr(p, simple=True, separator="/") for p, good in named if not bool(good)]
  if bad:
    lines.append(f"{len(bad)} of {len(paths)} gradients, as of {bad[0]}")
  return "; ".join(lines) or "no loss and no gradient: the state itself was not finite"


def first_bad_layer(params, batch, config: Train) -> str | None:
  """The first layer, in the order of computation, that gives numbers that are not finite."""
  names: list[str] = []

  def run(params, x):
    flags = []

    def watch(call, args, kwargs, context):
      y = call(*args, **kwargs)
      leaves = [leaf for leaf in jax.tree.leaves(y) if jnp.issubdtype(leaf.dtype, jnp.floating)]
      if context.method_name == "__call__" and leaves:
        names.append("/".join(context.module.path))
        flags.append(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all())
      return y

    def parts(codec):
      return codec.signal(codec.quantizer(codec.latents(x)).z)

    with nn.intercept_methods(watch):
      config.codec.apply({"params": params}, method=parts)
    return flags

  flags = jax.jit(run)(params, batch)
  return next((name for name, good in zip(names, flags, strict=True) if not bool(good)), None)
