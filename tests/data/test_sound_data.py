"""Crops of sound: what comes is a function of seed and step, from folders, tars and datasets."""

import pickle
import sys
import tarfile

import cloudpickle
import numpy as np
import pytest
import soundfile

from jaxcodec import CodecError
from jaxcodec.data import builders, packing, pipeline, sound, sources
from jaxcodec.data.health import Health
from launch import prepare_data


class Codec:
  sample_rate, hop_length, channels = 8000, 10, 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("sounds")
  rng = np.random.default_rng(0)
  for i in range(6):
    soundfile.write(folder / f"{i}.wav", rng.normal(0, 0.1, 2000 + 500 * i), 8000)
  # A file whose samples say where they are: half a second, counted in steps of 1/8000.
  (folder / "ramp").mkdir()
  ramp = np.arange(4000) / 8000
  soundfile.write(folder / "ramp" / "ramp.wav", ramp, 8000, subtype="FLOAT")
  return folder


def make(*paths, seed=0, **changes):
  config = sound.Sound(
    sources=tuple(map(str, paths)), **({"segment_seconds": 0.05, "num_threads": 2} | changes)
  )
  return config, pipeline.dataset(config, Codec, batch_size=4, num_steps=20, seed=seed)


def test_a_crop_is_what_the_file_has_there(folder):
  _, data = make(folder / "ramp")
  crops = np.stack([data[i] for i in range(5)]).reshape(-1, 400)
  starts = np.round(crops[:, 0] * 8000).astype(int)
  np.testing.assert_allclose(crops, (starts[:, None] + np.arange(400)) / 8000, atol=1e-6)
  assert len(set(starts)) > 10
  assert starts.max() <= 3600


def test_batches_depend_on_seed_and_step_alone(folder):
  config, data = make(folder, gain_db=(-6.0, 6.0))
  whole = list(pipeline.batches(config, data))
  assert len(whole) == 20
  assert whole[0].shape == (4, 400, 1)
  assert whole[0].dtype == np.float32
  # From step 7 on, as a run that goes on reads them; and from a pickle, as a worker does.
  np.testing.assert_array_equal(next(pipeline.batches(config, data, 7)), whole[7])
  np.testing.assert_array_equal(pickle.loads(cloudpickle.dumps(data))[7], whole[7])
  assert np.abs(make(folder, seed=1)[1][7] - whole[7]).max() > 0.01


def test_peaks_are_drawn_and_short_files_repeated(folder):
  for x in (make(folder, peak_db=(-6.0, -1.0))[1][step] for step in range(5)):
    peaks = 20 * np.log10(np.abs(x).max(axis=(1, 2)))
    assert (peaks > -6.001).all()
    assert (peaks < -0.999).all()
    assert np.ptp(peaks) > 0.1
  longer = {"segment_seconds": 1.2, "repeated": True}
  x = make(folder / "ramp", **longer)[1][0][0, :, 0]
  np.testing.assert_allclose(x, np.arange(9600) % 4000 / 8000, atol=1e-6)
  for change in ({"peak_db": (-1.0, 3.0)}, {"peak_db": (-3.0, -1.0), "gain_db": (-1.0, 1.0)}):
    with pytest.raises(ValueError, match="peak_db"):
      make(folder, **change)


def test_two_processes_share_the_rows_of_each_global_batch(folder):
  config, data = make(folder)
  parts = [
    pipeline.dataset(config, Codec, batch_size=4, num_steps=20, seed=0, process=p, processes=2)
    for p in range(2)
  ]
  for step in (0, 11):
    joined = np.concatenate([part[step] for part in parts])
    np.testing.assert_array_equal(joined, data[step])


def test_steps_with_short_crops_have_more_rows(folder):
  """Files of 0.25 to 0.56 s and one of 0.5 s: lengths of 0.1, 0.25 and 0.5 s."""
  config, data = make(folder, segment_seconds=0.5, buckets=(0.1, 0.25))
  shapes = [data[i].shape for i in range(20)]
  # None is shorter than 0.25 s, so no step has the shortest length.
  assert set(shapes) == {(8, 2000, 1), (4, 4000, 1)}
  # Three files have at least 0.5 s, 1.5 s in whole crops; the other four 1 s.
  assert 6 <= sum(shape[0] == 4 for shape in shapes) <= 18
  np.testing.assert_array_equal(next(pipeline.batches(config, data, 7)), data[7])
  halves = [
    pipeline.dataset(config, Codec, batch_size=4, num_steps=20, seed=0, process=p, processes=2)
    for p in range(2)
  ]
  for step in (3, 4, 5):
    np.testing.assert_array_equal(np.concatenate([part[step] for part in halves]), data[step])
  # Files are long enough: no row ends in zeros.
  assert all(np.abs(data[i][:, -10:]).max(axis=(1, 2)).min() > 0 for i in range(20))
  for wrong in ({"buckets": (0.6,)}, {"buckets": (0.1,), "packed": True}):
    with pytest.raises(ValueError, match=r"data\.buckets"):
      make(folder, segment_seconds=0.5, **wrong)


def test_short_clips_share_rows(tmp_path):
  lengths = (1000, 1500, 2000, 2500, 3000, 3995, 9000)
  for i, length in enumerate(lengths):
    wave = np.full(length, (i + 1) / 10)
    soundfile.write(tmp_path / f"{i}.wav", wave, 8000, subtype="FLOAT")
  config, data = make(tmp_path, segment_seconds=0.5, packed=True)
  rows = [row for i in range(3) for row in zip(*data[i], strict=True)]
  assert data[0].x.shape == (4, 4000, 1)
  assert data[0].segments.shape == (4, 400)
  whole = set()
  for x, segments in rows:
    frames = x.reshape(400, 10)
    assert (np.diff(segments[segments > 0]) >= 0).all()
    assert (frames[segments == 0] == 0).all()
    for segment in range(1, segments.max() + 1):
      values = frames[segments == segment]
      clip = round(10 * values.max()) - 1
      whole.add(clip)
      # All of the clip, or a row of the one that is longer.
      assert np.count_nonzero(values) == min(lengths[clip], 4000)
  assert whole == set(range(7))
  # Of the six rows two are the long file's, one has a clip of 3995 samples, three have two each.
  used = np.mean([np.count_nonzero(x) for x, _ in rows]) / 4000
  assert used > 0.9
  again = next(pipeline.batches(config, data, 2))
  np.testing.assert_array_equal(again.x, data[2].x)
  np.testing.assert_array_equal(again.segments, data[2].segments)


def test_boxes_are_packed_tightly_and_hold_all():
  sizes = np.random.default_rng(0).integers(1, 101, 2000)
  boxes = packing.best_fit(sizes.tolist(), 100)
  assert sorted(i for box in boxes for i in box) == list(range(2000))
  assert max(sum(sizes[i] for i in box) for box in boxes) <= 100
  # The theorem's bound, by the least that any packing needs.
  assert len(boxes) <= 11 / 9 * np.ceil(sizes.sum() / 100) + 1
  assert packing.best_fit([7, 5, 3, 3, 2], 10) == [[0, 2], [1, 3, 4]]


def test_files_are_resampled_and_mixed(tmp_path):
  time = np.arange(22_050) / 44_100
  tone = 0.5 * np.sin(2 * np.pi * 440 * time)
  soundfile.write(tmp_path / "tone.wav", np.stack([tone, np.zeros_like(tone)], axis=1), 44_100)
  _, data = make(tmp_path)
  x = data[0][0, :, 0]
  # The mean of both channels: half of the tone. Away from the crop's ends, a sine of 440 Hz.
  spectrum = np.abs(np.fft.rfft(x * np.hanning(400)))
  assert abs(np.argmax(spectrum) * 20 - 440) <= 20
  assert abs(np.sqrt(2 * np.mean(x**2)) - 0.25) < 0.01


def test_sources_mix_by_their_weights(folder, tmp_path):
  soundfile.write(tmp_path / "ones.wav", np.full(4000, 0.9), 8000, subtype="FLOAT")
  _, data = make(folder, tmp_path, weights=(3.0, 1.0))
  rows = np.concatenate([data[i] for i in range(20)])
  assert np.mean(np.abs(rows - 0.9).max(axis=(1, 2)) < 1e-6) == 0.25


def test_a_corrupt_file_is_named_counted_and_skipped(folder, tmp_path, capsys):
  tar = tmp_path / "some.tar"
  bad = tmp_path / "bad.wav"
  bad.write_bytes(b"RIFF nothing")
  with tarfile.open(tar, "w") as archive:
    for path in [bad, *sorted(folder.rglob("*.wav"))]:
      archive.add(path, path.name)
  _, data = make(tar)
  assert np.isfinite(data[0]).all()
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert error.startswith("skipped some.tar/bad.wav: ")
  assert "(1 so far)" in error


def test_a_file_that_breaks_later_is_replaced_by_another(folder, tmp_path, capsys):
  whole = (folder / "5.wav").read_bytes()
  source = [sources.File("good", (folder / "1.wav").read_bytes()), sources.File("later", whole)]
  health = Health(0.5)
  crops = sound.Crops(source, sound._measured(source, 2, health), 0.05, health)
  source[1] = sources.File("later", b"gone")
  crop = crops.load(crops[len(crops) - 1], np.random.default_rng(0), 400, 8000, 1)
  assert crop.shape == (400, 1)
  assert "skipped later" in capsys.readouterr().err


def test_too_many_corrupt_files_stop_the_run():
  health = Health(0.1)
  for i in range(18):
    health.good() if i else health.bad("first", "no reason")
  health.bad("second", "no reason")
  with pytest.raises(CodecError, match=r"3 of 20 files cannot be read, the last of them third"):
    health.bad("third", "no reason")


def test_wrong_data_is_said_in_one_line(folder, tmp_path):
  with pytest.raises(CodecError, match="no data at"):
    make(folder / "nowhere")
  with pytest.raises(CodecError, match="holds no files"):
    make(tmp_path)
  with pytest.raises(ValueError, match=r"data\.sources is empty"):
    make()
  with pytest.raises(ValueError, match="for 1 sources"):
    make(folder, weights=(1.0, 2.0))
  (tmp_path / "text.tar").write_text("no tar")
  with pytest.raises(CodecError, match="not an uncompressed tar"):
    make(tmp_path / "text.tar")


def test_a_prepared_dataset_gives_the_same_files_without_tensorflow(folder, tmp_path, capsys):
  bad = tmp_path / "with_bad"
  bad.mkdir()
  for path in folder.glob("*.wav"):
    (bad / path.name).write_bytes(path.read_bytes())
  (bad / "broken.wav").write_bytes(b"RIFF")
  arguments = [str(bad), "mine", "--data-dir", str(tmp_path), "--max-bad-share", "0.5"]
  assert prepare_data.main(arguments) == 0
  out, error = capsys.readouterr()
  assert "6 files, 1 left out" in out
  assert "skipped" in error
  assert "broken.wav" in error
  directory = tmp_path / "mine" / "1.0.0"
  source = pickle.loads(pickle.dumps(sources.open_source(directory, sources.SOUNDS)))
  found = {file.name: file.data for file in source}
  assert found == {str(p): p.read_bytes() for p in bad.glob("?.wav")}
  _, data = make(directory)
  assert data[0].shape == (4, 400, 1)
  assert prepare_data.main(arguments) == 1
  assert prepare_data.main([str(bad), "Not a name"]) == 2
  assert "tensorflow" not in sys.modules


def test_pictures_and_videos_are_checked_by_decoding(tmp_path):
  from PIL import Image

  Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
  good = (tmp_path / "a.png").read_bytes()
  files = [sources.File("a.png", good), sources.File("b.png", good[: len(good) // 2])]
  directory, left_out = builders.prepare(
    files, "pictures", builders.KINDS["picture"], tmp_path, max_bad_share=0.5
  )
  assert left_out == ["b.png"]
  assert len(sources.open_source(directory, sources.PICTURES)) == 1
  _, left_out = builders.prepare(
    [*files, sources.File("c", b"")], "videos", builders.KINDS["video"], tmp_path, max_bad_share=1.0
  )
  assert set(left_out) >= {"c"}
