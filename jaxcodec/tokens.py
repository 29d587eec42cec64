"""Datasets of codes: ArrayRecord shards that tensorflow-datasets reads.

A shard holds the codes of a fixed part of the examples and is there whole or not at all. So a
process that is killed, and started again, makes the shards that are missing, and every example is
in exactly one. Processes need not know of each other: each makes every n-th shard.
"""

import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcodec import atomic, bulk, codec as codec_lib
from jaxcodec.codec import Codec
from jaxcodec.data import sources
from jaxcodec.errors import CodecError

_NAME, _SPLIT = "tokens", "train"
_FLUSH_SHARDS = 4  # Batches are filled from so many shards at a time.


class Progress(NamedTuple):
  """How far a process is.

  Attributes:
    examples, total: that it has made, and that its missing shards hold.
    seconds: of sound.
    elapsed: seconds.
    skipped: inputs that could not be read.
  """

  examples: int
  total: int
  seconds: float
  elapsed: float
  skipped: int

  @property
  def speed(self) -> float:
    """As a multiple of real time."""
    return self.seconds / max(self.elapsed, 1e-9)


def write(
  codec: Codec,
  source: Sequence[sources.File],
  out: pathlib.Path,
  *,
  bitrate: int | None = None,
  shard_size: int = 256,
  process: int = 0,
  processes: int = 1,
  threads: int | None = None,
  progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
  """Writes the codes of a source's sounds that `out` lacks; the last process adds the metadata.

  An example is `{"name", "codes" [frames, codebooks], "seconds"}`, with "scales" for a codec that
  normalises loudness. `skipped.json` names each input that could not be read, and why. `threads`
  read and decode files, None for `bulk.READERS`.

  Raises:
    CodecError: if `out` holds codes of another codec or dataset, or no sound could be read.
    ValueError: if the codec has no such bitrate.
  """
  if bitrate is not None and bitrate not in codec.bitrates:
    raise ValueError(f"codec {codec.name} has no bitrate {bitrate} bit/s")
  count = -(-len(source) // shard_size)
  _claim(out, codec, bitrate, len(source), shard_size)
  mine = range(process, count, processes)
  missing = [shard for shard in mine if not _path(out, shard, count).exists()]
  for shard in missing:
    for stale in out.glob(f".{_path(out, shard, count).name}.*"):
      stale.unlink()
  parts = [range(s * shard_size, min((s + 1) * shard_size, len(source))) for s in missing]
  state = Progress(0, sum(map(len, parts)), 0.0, 0.0, 0)
  start = time.monotonic()
  done: dict[int, dict[int, bytes]] = {shard: {} for shard in missing}
  skipped: dict[int, dict[str, str]] = {shard: {} for shard in missing}
  left = dict(zip(missing, map(len, parts), strict=True))
  features, readers = _features(codec, bitrate), bulk.READERS if threads is None else threads

  def finished(shard: int) -> None:
    left[shard] -= 1
    if not left[shard]:
      _write_shard(out, shard, count, done.pop(shard), skipped.pop(shard))

  def signals() -> Iterator[bulk.Signal | None]:
    nonlocal state
    wanted: list[tuple[int, int] | None] = []
    for position, (shard, part) in enumerate(zip(missing, parts, strict=True)):
      wanted += [(shard, index) for index in part]
      wanted += [None] if position % _FLUSH_SHARDS == _FLUSH_SHARDS - 1 else []

    def load(place):
      return place and (place, *_read(codec, source, place[1]))

    for loaded in bulk.ahead(load, wanted, readers, 4 * readers):
      if loaded is None:
        yield None
        continue
      place, name, wave, reason = loaded
      if wave is None:
        skipped[place[0]][name] = reason
        state = state._replace(skipped=state.skipped + 1, examples=state.examples + 1)
        finished(place[0])
      else:
        yield bulk.Signal((*place, name), wave)

  for coded in bulk.encode(codec, signals(), bitrate=bitrate):
    shard, index, name = coded.signal.key
    seconds = len(coded.signal.wave) / codec.sample_rate
    codes = coded.codes.astype(_dtype(codec))
    example: dict[str, Any] = {"name": name, "codes": codes, "seconds": seconds}
    if coded.scales is not None:
      example["scales"] = coded.scales
    done[shard][index] = features.serialize_example(example)
    state = state._replace(
      examples=state.examples + 1,
      seconds=state.seconds + seconds,
      elapsed=time.monotonic() - start,
    )
    progress(state)
    finished(shard)
  if all(_path(out, shard, count).exists() for shard in range(count)):
    _finish(out, count, features)
  return state


def _read(codec: Codec, source, index: int) -> tuple[str, np.ndarray | None, str]:
  """Name and wave of an example, or None for it and the reason."""
  file = source[index]
  try:
    return file.name, bulk.read(codec, file), ""
  except CodecError as error:
    return file.name, None, str(error)


def _claim(out: pathlib.Path, codec: Codec, bitrate, examples: int, shard_size: int) -> None:
  """Makes `out` that of these codes, or finds that it is."""
  wanted = {
    "codec": codec.name,
    "fingerprint": codec_lib.fingerprint(codec).hex(),
    "bitrate": bitrate or max(codec.bitrates),
    "sample_rate": codec.sample_rate,
    "hop_length": codec.hop_length,
    "codebook_sizes": list(codec.codebook_sizes),
    "examples": examples,
    "shard_size": shard_size,
  }
  out.mkdir(parents=True, exist_ok=True)
  path = out / "tokens.json"
  if not path.exists():
    atomic.write(path, (json.dumps(wanted, indent=2) + "\n").encode())
    return
  found = json.loads(path.read_text())
  if found != wanted:
    name = next(name for name in wanted if found.get(name) != wanted[name])
    raise CodecError(
      f"{out} holds other codes: {name} is {found.get(name)} there, {wanted[name]} here"
    )


def _dtype(codec: Codec):
  return np.uint16 if max(codec.codebook_sizes) <= 2**16 else np.int32


def _features(codec: Codec, bitrate: int | None):
  import tensorflow_datasets as tfds

  stages = len(codec.codebook_sizes) if bitrate is None else codec.module.num_active(bitrate)
  features = {
    "name": tfds.features.Text(),
    # As they lie in memory: as a list of integers they take twenty times as long.
    "codes": tfds.features.Tensor(
      shape=(None, stages), dtype=_dtype(codec), encoding=tfds.features.Encoding.BYTES
    ),
    "seconds": tfds.features.Scalar(dtype=np.float32),
  }
  if codec.module.scaled:
    features["scales"] = tfds.features.Tensor(shape=(None,), dtype=np.float32)
  return tfds.features.FeaturesDict(features)


def _path(out: pathlib.Path, shard: int, count: int) -> pathlib.Path:
  return out / f"{_NAME}-{_SPLIT}.array_record-{shard:05}-of-{count:05}"


def _skipped_path(out: pathlib.Path, shard: int) -> pathlib.Path:
  return out / f".skipped-{shard:05}.json"


def _write_shard(out, shard: int, count: int, records: dict[int, bytes], skipped) -> None:
  from array_record.python.array_record_module import ArrayRecordWriter

  # Before the shard: what is there is complete.
  atomic.write(_skipped_path(out, shard), json.dumps(skipped).encode())
  with atomic.replacing(_path(out, shard, count)) as temporary:
    writer = ArrayRecordWriter(str(temporary), "group_size:1")
    for index in sorted(records):
      writer.write(records[index])
    writer.close()


def _finish(out: pathlib.Path, count: int, features) -> None:
  """What tensorflow-datasets wants to know; the same whoever writes it."""
  import tensorflow_datasets as tfds
  from array_record.python.array_record_module import ArrayRecordReader

  lengths: list[int] = []
  skipped: dict[str, str] = {}
  num_bytes = 0
  for shard in range(count):
    path = _path(out, shard, count)
    reader = ArrayRecordReader(str(path))
    lengths.append(reader.num_records())
    reader.close()
    num_bytes += path.stat().st_size
    skipped |= json.loads(_skipped_path(out, shard).read_text())
  atomic.write(out / "skipped.json", (json.dumps(skipped, indent=2) + "\n").encode())
  if skipped and not any(lengths):
    raise CodecError(f"none of {len(skipped)} sounds could be read: see {out / 'skipped.json'}")
  template = tfds.core.ShardedFileTemplate(
    data_dir=out, dataset_name=_NAME, split=_SPLIT, filetype_suffix="array_record"
  )
  split = tfds.core.SplitInfo(
    name=_SPLIT, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template
  )
  tfds.folder_dataset.write_metadata(
    data_dir=str(out),
    features=features,
    split_infos=[split],
    version="1.0.0",
    check_data=False,
  )
