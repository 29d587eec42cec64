"""Files that cannot be read: named, counted and passed over, up to a share."""

import sys
import threading

from jaxcodec.errors import CodecError


class Health:
  """Counts good and bad files; threads may share it, and a process that it is sent to starts anew.

  Attributes:
    most: the share of bad files above which `bad` raises, once there are `MIN_FILES`.
  """

  MIN_FILES = 20

  def __init__(self, most: float):
    self._start(most)

  def _start(self, most: float) -> None:
    self.most = most
    self._good = 0
    self._bad: dict[str, str] = {}
    self._lock = threading.Lock()

  def __getstate__(self):
    return self.most

  def __setstate__(self, most):
    self._start(most)

  @property
  def names(self) -> list[str]:
    """Of the bad files, in the order in which they were found."""
    return list(self._bad)

  def good(self) -> None:
    with self._lock:
      self._good += 1

  def bad(self, name: str, reason: str) -> None:
    """Says so once; CodecError if there are too many."""
    with self._lock:
      if name in self._bad:
        return
      self._bad[name] = reason
      bad, seen = len(self._bad), self._good + len(self._bad)
    print(f"skipped {name}: {reason} ({bad} so far)", file=sys.stderr, flush=True)
    if seen >= self.MIN_FILES and bad > self.most * seen:
      raise CodecError(
        f"{bad} of {seen} files cannot be read, the last of them {name}; "
        f"data.max_bad_share={self.most:g} allows fewer"
      )


def reason_of(error: Exception) -> str:
  """A decoder's error in one line."""
  # soundfile's whole message names an object in memory.
  text = getattr(error, "error_string", None) or str(error)
  return text.splitlines()[0].rstrip(". ") if text else type(error).__name__
