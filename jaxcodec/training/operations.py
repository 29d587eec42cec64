"""Floating point operations of a program, from what JAX traced: loops count as often as they run.

XLA's own count takes a loop's body once.
"""

import math

import jax
from jax.extend import core
from jax.interpreters import partial_eval


def flops(jaxpr: core.Jaxpr, platform: str | None = None) -> float:
  """Of products and convolutions, two for each multiplication and addition.

  What no result depends on does not count, as XLA leaves it out.

  Args:
    platform: that it runs on, such as "tpu"; None for JAX's default.
  """
  needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _total(needed, platform or jax.default_backend())


def _total(jaxpr: core.Jaxpr, platform: str) -> float:
  return sum(_of(equation, platform) for equation in jaxpr.eqns)


def _of(equation, platform: str) -> float:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * _size(equation.outvars[0]) * math.prod(shape[axis] for axis in contracted)
  if name == "conv_general_dilated":
    kernel = equation.invars[1].aval.shape
    features = kernel[params["dimension_numbers"].rhs_spec[0]]
    # Zeros between the inputs cost nothing.
    work = math.prod(kernel) / features / math.prod(params["lhs_dilation"] or (1,))
    return 2.0 * _size(equation.outvars[0]) * work
  if name == "dispatch":
    operands = (jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in equation.invars)
    return _total(jax.make_jaxpr(params["plain"])(*operands).jaxpr, platform)
  if name == "cond":
    branches = params["branches"]
    if of_platforms := params.get("branches_platforms"):
      taken = [platforms is None or platform in platforms for platforms in of_platforms]
      branches = branches[taken.index(True) :][:1]
    return max(_total(branch.jaxpr, platform) for branch in branches)
  times = params["length"] if name == "scan" else 1
  return times * sum(_total(inner, platform) for inner in _inner(params))


def _inner(params):
  for value in params.values():
    if isinstance(value, core.ClosedJaxpr):
      yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
      yield value


def _size(variable) -> int:
  return math.prod(variable.aval.shape)
