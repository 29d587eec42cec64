"""What goes wrong with somebody's data, as opposed to a mistake in a call."""


class CodecError(Exception):
  """A file, a checkpoint or a stream is damaged, truncated, foreign, or not what it says it is.

  The message is one line that says what is wrong. Mistakes in a call raise `ValueError` instead.
  """
