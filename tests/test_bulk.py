"""Which signals share a batch, and how much of it is filled up."""

import micro_codec
import numpy as np
import pytest

from jaxcodec import bulk


def _batches(lengths, num_devices: int = 1):
  codec = micro_codec.codec()
  signals = (bulk.Signal(i, np.ones((n, 1), np.float32)) for i, n in enumerate(lengths))
  found = list(bulk.batches(codec, signals, num_devices))
  return found, [bulk.filled(batch, codec, num_devices)[0] for batch in found]


@pytest.mark.parametrize("num_devices", [1, 3, 8])
def test_every_signal_is_in_one_batch_whose_rows_the_devices_share(num_devices):
  lengths = np.random.default_rng(0).integers(1, 100_000, 300)
  found, filled = _batches(lengths, num_devices)
  keys = sorted(signal.key for batch in found for signal in batch)
  assert keys == list(range(300))
  for batch, x in zip(found, filled, strict=True):
    assert len(x) % num_devices == 0
    assert x.sum() == sum(len(signal.wave) for signal in batch)


@pytest.mark.parametrize("count", [200, 3000])
def test_little_is_filled_up_in_few_shapes(count):
  """Sounds of one to ten seconds."""
  lengths = np.exp(np.random.default_rng(1).uniform(*np.log([8000, 80_000]), count)).astype(int)
  _, filled = _batches(lengths)
  assert sum(x.size for x in filled) < 1.12 * sum(lengths)
  assert len({x.shape for x in filled}) < 30


def test_a_few_sounds_are_not_rounded_up_to_many_rows():
  _, filled = _batches([8000] * 7)
  assert sorted(len(x) for x in filled) == [1, 2, 4]


def test_none_asks_for_what_came_before():
  codec = micro_codec.codec()
  first, last = (bulk.Signal(i, np.ones((100, 1), np.float32)) for i in range(2))
  assert [len(b) for b in bulk.batches(codec, [first, None, last], 1)] == [1, 1]
