"""`jaxcodec evaluate` on pictures: real bytes, curves, other formats beside, and a page."""

import json
import math

import numpy as np
import pytest
from PIL import Image
from recorded_pictures import codec, many_rates

import jaxcodec
from jaxcodec import (
  cli,
  evaluate_pictures,
  fitted_picture,
  metrics,
  picture_baselines,
  picture_file,
  picture_report,
)
from jaxcodec.errors import CodecError
from jaxcodec.picture_baselines import CodedPicture, PictureSystem

ROWS, COLUMNS = np.mgrid[:64, :128]
WAVES = [np.sin(ROWS / 9), np.cos(COLUMNS / 7), np.sin((ROWS + COLUMNS) / 11)]
PIXELS = np.asarray(127.5 + 90 * np.stack(WAVES, axis=-1), np.uint8)


def darker(name: str, by: int, size: int) -> PictureSystem:
  """A system that takes `by` from each sample, in a file of `size` bytes."""
  return PictureSystem(
    name, by, lambda pixels: CodedPicture(pixels - np.uint8(by), size, 0.5, 0.25)
  )


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "in").mkdir()
  Image.fromarray(PIXELS).save(tmp_path / "in" / "a.png")
  Image.fromarray(PIXELS[..., 0]).save(tmp_path / "in" / "b.webp", lossless=True)
  (tmp_path / "in" / "c.png").write_bytes(b"no picture")
  (tmp_path / "in" / "d.txt").write_text("no picture either")
  return tmp_path / "in"


def test_means_and_bd_rates_are_those_of_the_files(folder):
  half = [darker("half", by, size // 2) for by, size in ((8, 800), (4, 1600), (2, 3200))]
  whole = [darker("whole", by, size) for by, size in ((8, 800), (4, 1600), (2, 3200))]
  sources = evaluate_pictures.picture_files(folder)
  assert [path.name for path in sources] == ["a.png", "b.webp", "c.png"]
  found = evaluate_pictures.run([*whole, *half], sources, lambda x, y: float(x[0, 0, 0]))
  assert len(found.skipped) == 1
  assert "c.png" in found.skipped[0][0]
  first = found.means[0]
  assert (first.system, first.setting, first.files) == ("whole", 8, 2)
  assert first.bits_per_pixel == 8 * 800 / (64 * 128)
  assert first.psnr == pytest.approx(20 * math.log10(255 / 8))
  assert math.isnan(first.ms_ssim)
  assert first.perceptual == PIXELS[0, 0, 0]
  rates = found.bd_rates("whole")
  assert rates["half"]["psnr"] == pytest.approx(-50)
  assert math.isnan(rates["half"]["ms_ssim"])
  rows = json.loads(json.dumps(found.to_json()))
  assert rows["means"][0]["ms_ssim"] is None
  assert len(rows["files"]) == 12


def test_nothing_to_read_is_an_error(folder):
  with pytest.raises(CodecError, match="none of 1 pictures can be read"):
    evaluate_pictures.run([darker("x", 1, 1)], [folder / "c.png"])


def test_other_formats_code_to_real_bytes():
  systems, missing = picture_baselines.find()
  names = dict.fromkeys(system.name for system in systems)
  assert list(names)[:2] == ["jpeg", "webp"]
  assert len(names) + len(missing) == 4
  for name in names:
    sizes = [system.code(PIXELS).num_bytes for system in systems if system.name == name]
    assert sizes == sorted(sizes)
  best, quality = picture_baselines.jpeg_of(PIXELS, 1500)
  options = {"optimize": True}
  assert best.num_bytes <= 1500
  assert picture_baselines.code("JPEG", quality + 1, options, PIXELS).num_bytes > 1500
  smallest, quality = picture_baselines.jpeg_of(PIXELS, 1)
  assert (smallest.pixels.shape, quality) == (PIXELS.shape, 1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  folder = tmp_path_factory.mktemp("codec")
  jaxcodec.save(many_rates(), folder)
  return folder


def call(capsys, *arguments) -> tuple[int, str, str]:
  status = cli.main(["evaluate", *(str(argument) for argument in arguments)])
  captured = capsys.readouterr()
  return status, captured.out, captured.err


def test_the_command_measures_a_folder_of_pictures(folder, directory, tmp_path, capsys):
  plot, found = tmp_path / "curves.png", tmp_path / "found.json"
  arguments = [folder, "--codecs", directory, "--limit", 1, "--plot", plot, "--json", found]
  status, out, err = call(capsys, *arguments)
  assert status == 0, err
  assert f"{directory}@0 " in out
  assert "BD-rate against jpeg: psnr" in out
  rows = json.loads(found.read_text())["means"]
  ours = [row for row in rows if row["system"] == str(directory)]
  assert [row["setting"] for row in ours] == list(evaluate_pictures.QUALITIES)
  data = jaxcodec.compress(many_rates(), PIXELS[None].astype(np.float32) / 127.5 - 1, quality=0)
  assert ours[0]["bits_per_pixel"] == 8 * len(data) / PIXELS[..., 0].size
  with Image.open(plot) as image:
    assert image.format == "PNG"


def test_refined_pictures_are_measured_beside_those_that_are_not(folder, directory, capsys):
  arguments = ["--codecs", directory, "--quality", 50, "--refine", 3, "--limit", 1, "--json", "-"]
  status, out, err = call(capsys, folder, *arguments, "--baselines", "none")
  assert status == 0, err
  plain, refined = json.loads(out)["means"]
  assert (plain["system"], refined["system"]) == (str(directory), f"{directory}, refined")
  x = PIXELS[None].astype(np.float32) / 127.5 - 1
  for row, refine in ((plain, 0), (refined, 3)):
    data = picture_file.compress(many_rates(), x, quality=50, refine=refine)
    assert row["bits_per_pixel"] == 8 * len(data) / PIXELS[..., 0].size


def test_pictures_with_networks_of_their_own_are_measured_by_their_files(folder, tmp_path, capsys):
  found = tmp_path / "found.json"
  arguments = ["--codecs", "c3", "--steps", 100, "--quality", 75, "--limit", 1, "--json", found]
  status, out, err = call(capsys, folder, *arguments)
  assert status == 0, err
  assert "c3@75 " in out
  row = json.loads(found.read_text())["files"][0]
  fit = fitted_picture.fit_of(75, 100)
  (data,) = fitted_picture.compress_many(PIXELS[None], fit)
  assert row["num_bytes"] == len(data)
  decoded = np.rint(127.5 * (jaxcodec.decompress(data) + 1)).astype(np.uint8)
  assert row["psnr"] == pytest.approx(metrics.psnr(PIXELS, decoded[0]))


def test_three_fits_make_a_curve_and_say_how_far_they_are():
  told = []
  systems = evaluate_pictures.fitted_systems(steps=10, progress=lambda *steps: told.append(steps))
  assert [system.setting for system in systems] == list(evaluate_pictures.FITTED_QUALITIES)
  systems[0].code(PIXELS[:8, :8])
  assert told == [(10, 11), (11, 11)]


@pytest.mark.parametrize(
  ("arguments", "status", "said"),
  [
    (["--codecs", "c3,speech-16khz"], 2, "give one kind"),
    (["--codecs", "c3", "--steps", "0"], 2, "steps are 1 to ten million, not 0"),
    (["--codecs", "{codec}", "--steps", "10"], 2, "--steps is for --codecs c3"),
    (["--codecs", "speech-16khz,{codec}"], 2, "give one kind"),
    (["--codecs", "{codec}", "--bitrate", "3"], 2, "--bitrate is for sound"),
    (["--codecs", "{codec}", "--quality", "101"], 2, "a quality is 0 to 100"),
    (
      ["--codecs", "speech-16khz", "--quality", "3"],
      2,
      "--quality, --steps, --refine and --plot are for pictures",
    ),
    (["--codecs", "{codec}", "--refine", "-1"], 2, "--refine takes a number of steps, not -1"),
    (["--codecs", "c3", "--refine", "3"], 2, "--refine does not go with --codecs c3"),
  ],
)
def test_wrong_calls_take_one_line(folder, directory, capsys, arguments, status, said):
  arguments = [argument.format(codec=directory) for argument in arguments]
  found, _, err = call(capsys, folder, "--limit", 1, *arguments)
  assert found == status
  assert said in err
  assert err.count("\n") == 1


def test_a_codec_of_one_rate_has_one_row():
  (system,) = evaluate_pictures.codec_systems("one", codec("checkerboard"))
  assert system.setting is None
  assert picture_report.label_of(evaluate_pictures._means([_score(system)])) == "one"


def _score(system: PictureSystem):
  coded = CodedPicture(PIXELS, 1, 1.0, 1.0)
  return evaluate_pictures._score(system, "a", PIXELS, coded, None)


def test_a_section_shows_the_pixels_and_escapes_names():
  import base64
  import io
  import re

  versions = [picture_report.Version("<original>", "12 & more", PIXELS)]
  text = picture_report.section("a <b>", versions, b"curves")
  assert "<original>" not in text
  assert "12 &amp; more" in text
  assert "128 x 64 pixels" in text
  found = re.search(r"data:image/webp;base64,([^\"]+)", text)
  with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
    np.testing.assert_array_equal(np.asarray(image), PIXELS)
