"""Several processes that work as one."""

import jax


def join(**place) -> None:
  """Makes this process one of a run's; called before anything else of jax.

  Args:
    place: as of `jax.distributed.initialize`; what is not given is found by it.
  """
  jax.distributed.initialize(**place)
  if jax.default_backend() == "cpu":
    # A program that XLA reads back from its cache has lost the order between collectives within a
    # loop and those outside: two processes may each wait for the other's next one.
    jax.config.update("jax_enable_compilation_cache", False)
