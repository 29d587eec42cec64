"""Neural codecs in JAX."""
