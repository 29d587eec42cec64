"""Crops of pictures and videos: where they come from, and that seed and step decide them."""

import contextlib
import dataclasses
import multiprocessing
import pickle

import av
import cloudpickle
import numpy as np
import pytest
from PIL import Image

from jaxcodec import CodecError
from jaxcodec.data import builders, pipeline, sources
from jaxcodec.data.pictures import Pictures
from jaxcodec.data.videos import Videos


def make(config, **changes):
  return pipeline.dataset(config, None, batch_size=4, num_steps=10, seed=0, **changes)


def ramp(height: int, width: int) -> np.ndarray:
  """A picture whose pixels say where they are: row in red, column in green."""
  rows, columns = np.mgrid[:height, :width]
  return np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pictures")
  for name, size in (("wide", (40, 60)), ("high", (50, 30))):
    Image.fromarray(ramp(*size)).save(folder / f"{name}.png")
  return folder


def as_bytes(x: np.ndarray) -> np.ndarray:
  """The bytes that were scaled to x."""
  return np.round((x + 1) * 127.5).astype(int)


def test_a_crop_is_what_the_picture_has_there(pictures):
  config = Pictures(sources=(str(pictures),), size=(8, 12))
  data = make(config)
  assert data[0].shape == (4, 8, 12, 3)
  assert data[0].dtype == np.float32
  mirrored = 0
  for crop in np.concatenate([data[i] for i in range(10)]):
    found = as_bytes(crop)
    flipped = found[0, 0, 1] > found[0, 1, 1]
    found = found[:, ::-1] if flipped else found
    top, left = found[0, 0, :2]
    np.testing.assert_array_equal(found, ramp(60, 60)[top : top + 8, left : left + 12])
    mirrored += flipped
  assert 10 < mirrored < 30
  np.testing.assert_array_equal(next(pipeline.batches(config, data, 7)), data[7])
  np.testing.assert_array_equal(pickle.loads(cloudpickle.dumps(data))[7], data[7])
  halves = [make(config, process=p, processes=2)[3] for p in range(2)]
  np.testing.assert_array_equal(np.concatenate(halves), data[3])


@pytest.mark.slow
def test_worker_processes_give_the_same_batches_and_end(pictures):
  config = Pictures(sources=(str(pictures),), size=(16, 16))
  data = make(config)
  with contextlib.closing(
    pipeline.batches(dataclasses.replace(config, num_workers=2), data, 2)
  ) as found:
    batches = [next(found) for _ in range(4)]
  for batch, wanted in zip(batches, (data[i] for i in range(2, 6)), strict=True):
    np.testing.assert_array_equal(batch, wanted)
  assert not [p for p in multiprocessing.active_children() if p.is_alive()]


def test_pictures_are_scaled_turned_and_made_grey(tmp_path):
  tall = Image.new("L", (20, 80))
  tall.paste(255, (0, 40, 20, 80))
  # Of the camera's tag 274, 6 says that the left side is the top: it is shown 80 wide, 20 high.
  exif = Image.Exif()
  exif[274] = 6
  tall.save(tmp_path / "turned.png", exif=exif)
  data = make(Pictures(sources=(str(tmp_path),), size=(10, 40), short_side=10, channels=1))
  x = data[0]
  assert x.shape == (4, 10, 40, 1)
  # Halves of black and white side by side, each row of the picture the same.
  np.testing.assert_allclose(x, np.broadcast_to(x[:, :1], x.shape), atol=1e-6)
  assert {*np.sign(x[:, 0, (0, -1), 0]).ravel()} == {-1.0, 1.0}
  # Smaller than a crop: it is enlarged.
  assert make(Pictures(sources=(str(tmp_path),), size=(64, 64)))[0].shape == (4, 64, 64, 3)
  # Sixteen bits are not cut off.
  Image.fromarray(np.full((20, 20), 32768, np.uint16)).save(tmp_path / "turned.png")
  x = make(Pictures(sources=(str(tmp_path),), size=(8, 8), channels=1))[0]
  np.testing.assert_allclose(x, 128 / 127.5 - 1, atol=1e-6)


def test_a_corrupt_picture_is_named_counted_and_skipped(pictures, tmp_path, capsys):
  some, broken = tmp_path / "some", tmp_path / "broken"
  whole = (pictures / "wide.png").read_bytes()
  for folder in (some, broken):
    folder.mkdir()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
  (some / "header.png").write_bytes(b"nothing")
  (some / "wide.png").write_bytes(whole)
  data = make(Pictures(sources=(str(some),), size=(8, 8)))
  assert "header.png" in capsys.readouterr().err
  assert all(np.isfinite(data[i]).all() for i in range(3))
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert "half.png" in error
  assert "(2 so far)" in error
  with pytest.raises(CodecError, match=r"a hundred files in a row .*half\.png"):
    make(Pictures(sources=(str(broken),), size=(8, 8)))[0]
  with pytest.raises(ValueError, match=r"data\.size"):
    make(Pictures(sources=(str(pictures),), size=(0, 8)))


def write_video(path, count: int, height: int = 32, width: int = 48) -> None:
  """Frames that grow brighter by 5 each, lossless."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream("ffv1", rate=10)
    stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
    for i in range(count):
      frame = np.full((height, width, 3), 5 * i, np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())


def test_frames_follow_each_other(tmp_path, capsys):
  write_video(tmp_path / "a.mkv", 30)
  write_video(tmp_path / "b.mkv", 5)
  (tmp_path / "c.mkv").write_bytes(b"nothing")
  config = Videos(
    sources=(str(tmp_path),), frames=4, every=2, size=(16, 16), flip=False, max_bad_share=0.5
  )
  data = make(config)
  assert "c.mkv" in capsys.readouterr().err
  assert data[0].shape == (4, 4, 16, 16, 3)
  starts = set()
  for clip in np.concatenate([data[i] for i in range(10)]):
    found = as_bytes(clip)
    assert (found == found[:, :1, :1, :1]).all()
    first, *others = found[:, 0, 0, 0] // 5
    starts.add(int(first))
    # The short video ends after its third frame of these, which is repeated.
    assert others in ([first + 2, first + 4, first + 6], [2, 4, 4])
  assert len(starts) > 8
  np.testing.assert_array_equal(next(pipeline.batches(config, data, 7)), data[7])
  # The same from a prepared dataset.
  source = sources.open_source(tmp_path, sources.VIDEOS)
  directory, left_out = builders.prepare(
    source, "videos", builders.KINDS["video"], tmp_path / "made", max_bad_share=0.5
  )
  assert [name.endswith("c.mkv") for name in left_out] == [True]
  prepared = make(Videos(sources=(str(directory),), frames=4, every=2, size=(16, 16)))
  assert prepared[0].shape == (4, 4, 16, 16, 3)
