"""Blocks of a network that the way back computes again, whatever modules they are made of."""

import contextlib
import functools

import flax.linen as nn
import jax

_HALVES = ("encoder", "decoder", "g_a", "g_s")


def rematerialized(on: bool) -> contextlib.AbstractContextManager[None]:
  """Within it, each layer that stands directly in an encoder or a decoder is a `jax.checkpoint`.

  So their inputs are kept for the gradients and nothing that lies within them. The modules know
  nothing of it, and neither do their parameters' names.
  """
  return nn.intercept_methods(_block) if on else contextlib.nullcontext()


def computed_again(
  on: bool, kinds: tuple[type[nn.Module], ...]
) -> contextlib.AbstractContextManager[None]:
  """As `rematerialized`, of every module of these kinds, none of which holds another."""

  def block(call, args, kwargs, context):
    module = context.module
    inside = context.method_name == "__call__" and module.path and isinstance(module, kinds)
    return _again(module, args, kwargs) if inside else call(*args, **kwargs)

  return nn.intercept_methods(block) if on else contextlib.nullcontext()


def _block(call, args, kwargs, context):
  module = context.module
  path = module.path
  if context.method_name != "__call__" or len(path) != 2 or path[0] not in _HALVES:
    return call(*args, **kwargs)
  return _again(module, args, kwargs)


def _again(module, args, kwargs):
  # Alone, it has a path of its own and is not met here again.
  alone = module.clone(parent=None)
  run = functools.partial(alone.apply, **kwargs)
  return jax.checkpoint(lambda params, x: run({"params": params}, x, *args[1:]))(
    module.variables.get("params", {}), args[0]
  )
