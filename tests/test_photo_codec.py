"""The bundled codec of pictures: it is there, small, and the default of the command."""

import pathlib

import numpy as np
import pytest
from PIL import Image

import jaxcodec
from jaxcodec import cli, evaluate_pictures, picture_baselines
from jaxcodec.demo_pictures import bundled_pictures
from jaxcodec.hub import load as hub


def test_it_is_bundled_and_at_most_eight_megabytes():
  folder = pathlib.Path(hub.__file__).parents[1] / "assets" / "codecs" / "photo"
  assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000
  assert "photo" in jaxcodec.bundled()


def test_the_command_codes_a_picture_with_it_unasked(tmp_path, capsys):
  with Image.open(bundled_pictures()[0]) as stored:
    part = stored.convert("RGB").crop((100, 60, 227, 125))
  part.save(tmp_path / "a.png")
  sizes = {}
  for quality in (10, 90):
    coded, back = tmp_path / f"{quality}.jxc", tmp_path / f"{quality}.png"
    assert cli.main(["encode", str(tmp_path / "a.png"), str(coded), "--quality", str(quality)]) == 0
    assert cli.main(["decode", str(coded), str(back)]) == 0
    sizes[quality] = coded.stat().st_size
    with Image.open(back) as decoded:
      assert decoded.size == (127, 65)
      error = np.asarray(decoded, np.float64) - np.asarray(part)
    assert np.sqrt(np.mean(error**2)) < 30
  assert sizes[10] < sizes[90]
  (stream,) = jaxcodec.info((tmp_path / "10.jxc").read_bytes())["streams"]
  assert (stream["codec"], stream["quality"]) == ("photo", 10.0)
  # What the file names is found without being told.
  y = jaxcodec.decompress((tmp_path / "10.jxc").read_bytes())
  assert y.shape == (1, 65, 127, 3)
  capsys.readouterr()
  call = ["encode", str(tmp_path / "a.png"), str(tmp_path / "b.jxc")]
  assert cli.main([*call, "--quality", "5", "--target-bpp", "1"]) == 2
  assert "give one of --quality" in capsys.readouterr().err


def test_export_writes_it_to_a_directory(tmp_path, capsys):
  call = ["export", "photo"]
  assert cli.main([*call, str(tmp_path / "a"), "--half"]) == 0
  assert jaxcodec.load(tmp_path / "a").module == jaxcodec.load("photo").module
  assert cli.main([*call, str(tmp_path / "a")]) == 2
  assert cli.main([*call, str(tmp_path / "a.safetensors")]) == 2
  assert cli.main([*call, str(tmp_path / "a.zip")]) == 2
  said = capsys.readouterr().err.splitlines()
  assert "is a directory" in said[-3]
  assert "name a directory" in said[-2]
  assert "end it with .safetensors" in said[-1]


@pytest.mark.slow
@pytest.mark.optimized
def test_it_takes_a_third_fewer_bytes_than_jpeg_on_photographs(data):
  systems, _ = picture_baselines.find()
  systems = [system for system in systems if system.name == "jpeg"]
  systems += evaluate_pictures.codec_systems("photo", jaxcodec.load("photo"), (0, 30, 60))
  files = [data / "kodak" / f"kodim{number}.png" for number in ("05", "23")]
  found = evaluate_pictures.run(systems, files)
  rates = found.bd_rates("jpeg")["photo"]
  assert all(rate < -33 for rate in rates.values()), rates
