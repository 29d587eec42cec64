"""Examples of any kind as batches, by Grain: a batch is a function of the seed and the step alone.

So a run goes on where it stopped without a saved position, any number of processes see the same
global batches, each its rows of them, and neither threads nor workers change what comes.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from jaxcodec.data import sources as sources_lib
from jaxcodec.data.health import Health


class Entries(Protocol):
  """What can be counted and taken from by place."""

  def __len__(self) -> int: ...
  def __getitem__(self, place: int, /) -> Any: ...


class Part(NamedTuple):
  """The examples of one shape that a source has.

  Attributes:
    entries: what `load` makes examples of; they pickle.
    load: `(entry, rng) -> example`, an array or a tuple of arrays; an object that pickles.
    share: of the source's steps, those with examples of this shape.
    times: rows of a step with this shape, in multiples of the batch size.
  """

  entries: Entries
  load: Callable[[Any, np.random.Generator], Any]
  share: float = 1.0
  times: int = 1


class Data(Protocol):
  """What the configurations of all kinds have in common; see `data.sound.Sound`."""

  suffixes: ClassVar[frozenset[str]]

  @property
  def sources(self) -> tuple[str, ...]: ...
  @property
  def weights(self) -> tuple[float, ...]: ...
  @property
  def num_threads(self) -> int: ...
  @property
  def num_workers(self) -> int: ...
  @property
  def max_bad_share(self) -> float: ...

  def shape(self, codec) -> Any:
    """Of the largest example: a tuple, or one for each of its parts."""
    ...

  def check(self) -> None:
    """Raises ValueError for fields that contradict each other."""

  def parts(self, source: Sequence[sources_lib.File], codec, health: Health) -> list[Part]:
    """One part for each shape, the same shapes for every source."""


class _Batches:
  """The rows that a process has of each step's batch: a contiguous part of it."""

  def __init__(self, rows: list, sizes: list[int], order: np.ndarray, process, processes):
    self._rows, self._order = rows, order
    self._local = [size // processes for size in sizes]
    self._sizes, self._process = sizes, process
    # How many steps before had this step's shape.
    self._earlier = np.zeros(len(order), np.int32)
    for shape in range(len(rows)):
      here = order == shape
      self._earlier[here] = np.arange(np.count_nonzero(here))

  def __len__(self) -> int:
    return len(self._order)

  def __getitem__(self, step):
    shape = self._order[step]
    local = self._local[shape]
    first = int(self._earlier[step]) * self._sizes[shape] + self._process * local
    rows = [self._rows[shape][first + row] for row in range(local)]
    if isinstance(rows[0], tuple):
      return type(rows[0])(*(np.stack(leaves) for leaves in zip(*rows, strict=True)))
    return np.stack(rows)


def dataset(
  config: Data,
  codec,
  *,
  batch_size: int,
  num_steps: int,
  seed: int,
  process: int = 0,
  processes: int = 1,
):
  """A `grain.MapDataset` of this process's rows [B / processes, ...] of each step's batch.

  Raises:
    CodecError: for a source that is missing, empty, or has too many files that cannot be read.
    ValueError: for weights that do not fit the sources, a batch that processes do not divide, or
      fields that contradict each other.
  """
  import grain

  if not config.sources:
    raise ValueError("data.sources is empty: name a folder, a tar or a prepared dataset")
  weights = config.weights or (1.0,) * len(config.sources)
  if len(weights) != len(config.sources) or min(weights) <= 0:
    raise ValueError(f"data.weights={weights} for {len(config.sources)} sources")
  if batch_size % processes:
    raise ValueError(f"batch_size={batch_size} does not divide over {processes} processes")
  config.check()
  health = Health(config.max_bad_share)
  table = [
    config.parts(sources_lib.open_source(path, config.suffixes), codec, health)
    for path in config.sources
  ]
  shares = np.array([[part.share for part in parts] for parts in table])
  shares *= np.array(weights)[:, None] / sum(weights)
  rows, sizes = [], []
  for shape in range(shares.shape[1]):
    found, mixed = [], []
    for i, parts in enumerate(table):
      part = parts[shape]
      if part.share:
        entries = grain.MapDataset.source(part.entries).seed(seed + i + shape * len(table))
        found.append(entries.shuffle().repeat().random_map(part.load))
        mixed.append(shares[i, shape] / shares[:, shape].sum())
    # A shape that no source has comes in no step.
    rows.append(
      found[0] if len(found) == 1 else grain.MapDataset.mix(found, mixed) if found else ()
    )
    sizes.append(batch_size * table[0][shape].times)
  order = np.zeros(num_steps, np.int8)
  if len(rows) > 1:
    # Longer runs draw the same at first.
    order[:] = np.random.default_rng(seed).choice(len(rows), num_steps, p=shares.sum(axis=0))
  return grain.MapDataset.source(_Batches(rows, sizes, order, process, processes))


def batches(config: Data, data, start: int = 0):
  """The batches of `dataset` from step `start` on, read ahead by threads or workers.

  A `grain.DatasetIterator`; `close` ends what reads ahead.
  """
  import grain
  from absl import flags

  options = grain.ReadOptions(num_threads=config.num_threads, prefetch_buffer_size=8)
  ahead = data[start:].to_iter_dataset(options)
  if config.num_workers:
    # Grain's workers take its flags from this process, whose own command line has none of them.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.num_workers))
  return iter(ahead)
