import base64
import html.parser
import io
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

from jaxcodec.report import Result, Sample, html_page, print_table, spectrogram_png

RATE = 16_000
VOID = {"meta", "img", "link", "br", "hr", "input"}


def tone(seconds=0.3, frequency=440.0):
  return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)


def result(**changes):
  values = {
    "sample": "voice <a>",
    "label": 'six & "twelve"',
    "kbps": 6.1234,
    "num_bytes": 12_345,
    "stoi": 0.9876,
    "si_sdr": -3.21,
    "speed": 4.26,
    "wave": 0.5 * tone(),
  }
  return Result(**{**values, **changes})


class Tree(html.parser.HTMLParser):
  """What a browser would see: tags with their attributes, text, and whether tags nest."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.text, self.open = [], [], []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] not in ("script", "style"):
      self.text.append(data)

  def all(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def page(tmp_path):
  picture = tmp_path / "a.png"
  Image.new("RGB", (4, 4), "red").save(picture)
  sample = Sample("voice <a>", tone(), RATE, picture)
  rows = [result(), result(label="nine", si_sdr=math.nan, speed=37.4, wave=3 * tone())]
  path = tmp_path / "page.html"
  html_page(path, "Title <i>", "One & two.\n\nThree <script>.", rows, [sample])
  return path.read_text(encoding="utf-8")


def test_page_needs_no_other_file(page):
  tree = Tree(page)
  assert not re.search(r"https?:|@import|url\(", page)
  assert {"link", "iframe", "object", "embed"}.isdisjoint(tag for tag, _ in tree.tags)
  links = [a[key] for _, a in tree.tags for key in ("src", "href", "srcset", "poster") if key in a]
  assert len(links) == 4
  assert all(link.startswith("data:") for link in links)
  policy = next(a for a in tree.all("meta") if "http-equiv" in a)
  assert policy["content"].startswith("default-src 'none'")


def test_page_shows_the_figures(page):
  text = Tree(page).text
  for value in ("6.12", "12,345", "0.988", "-3.2", "4.3x", "37x", "\N{EN DASH}"):
    assert value in text
  assert "6.12 kbps, 12,345 bytes" in text
  assert "256 kbps, 16-bit PCM" in text  # 16 bits at 16 kHz.


def test_page_escapes_what_it_is_given(page):
  tree = Tree(page)
  text = "\n".join(tree.text)
  for words in ("Title <i>", "One & two.", "Three <script>.", "voice <a>", 'six & "twelve"'):
    assert words in text
  assert not tree.all("i")
  assert len(tree.all("script")) == 1
  assert tree.all("audio")[1]["aria-label"] == 'voice <a>, six & "twelve"'


def test_page_is_accessible(page):
  tree = Tree(page)
  assert tree.all("html") == [{"lang": "en"}]
  assert all(a["aria-label"] and "controls" in a for a in tree.all("audio"))
  assert all("voice <a>" in a["alt"] for a in tree.all("img"))
  assert all("scope" in a for a in tree.all("th"))
  assert "prefers-color-scheme: dark" in page


def test_page_plays_what_was_decoded(page):
  sounds = [a["src"].removeprefix("data:audio/wav;base64,") for a in Tree(page).all("audio")]
  waves = []
  for sound in sounds:
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)))
    assert rate == RATE
    waves.append(wave)
  # Half a step of 16 bits; full scale is 32767 going in and 32768 coming out.
  np.testing.assert_allclose(waves[0], tone(), atol=1 / 32768)
  np.testing.assert_allclose(waves[1], 0.5 * tone(), atol=1 / 32768)
  # Beyond full scale it is clipped and does not wrap.
  np.testing.assert_allclose(waves[2], np.clip(3 * tone(), -1, 1), atol=2 / 32768)


def test_page_takes_stereo(tmp_path):
  picture = tmp_path / "a.png"
  Image.new("RGB", (4, 4)).save(picture)
  wave = np.stack([tone(), -tone()], axis=1)
  html_page(tmp_path / "p.html", "t", "", [], [Sample("s", wave, RATE, picture)])
  tree = Tree((tmp_path / "p.html").read_text(encoding="utf-8"))
  assert "512 kbps, 16-bit PCM" in tree.text
  sound = base64.b64decode(tree.all("audio")[0]["src"].partition(",")[2])
  np.testing.assert_allclose(soundfile.read(io.BytesIO(sound))[0], wave, atol=1 / 32768)


def test_page_refuses_names_that_do_not_fit(tmp_path):
  sample = Sample("a", tone(), RATE, tmp_path / "a.png")
  with pytest.raises(ValueError, match="a result is of sample 'b'"):
    html_page(tmp_path / "p.html", "t", "", [result(sample="b")], [sample])
  with pytest.raises(ValueError, match="share a name"):
    html_page(tmp_path / "p.html", "t", "", [], [sample, sample])


def test_spectrogram_shows_the_tone_where_it_is(tmp_path):
  path = tmp_path / "s.png"
  waves = {"original $x$": tone(frequency=2000), "quiet": 1e-3 * tone(frequency=6000)}
  spectrogram_png(path, waves, RATE)
  with Image.open(path) as image:
    image.load()
    assert image.format == "PNG"
    assert image.width == 1200
    pixels = np.asarray(image.convert("RGBA"), np.float64)
  # In the middle of the picture the brightest row of the upper panel is at a quarter of it.
  column = pixels[:, 600, :3].sum(axis=1) * (pixels[:, 600, 3] == 255)
  panel = np.flatnonzero(pixels[: len(pixels) // 2, 600, 3] == 255)
  height = 1 - (np.argmax(column[: len(pixels) // 2]) - panel[0]) / np.ptp(panel)
  assert height == pytest.approx(2 / 8, abs=0.03)
  # One colour scale: what is 60 dB lower is darker.
  assert column[len(pixels) // 2 :].max() < 0.6 * column[: len(pixels) // 2].max()


@pytest.mark.parametrize("wave", [np.zeros(RATE), np.ones(3), np.ones((RATE, 2), np.float32)])
def test_spectrogram_of_anything(tmp_path, wave):
  spectrogram_png(tmp_path / "s.png", {"original": wave}, RATE)
  with Image.open(tmp_path / "s.png") as image:
    assert len(image.convert("RGB").getcolors(1 << 20)) > 10


def test_spectrogram_refuses_nothing(tmp_path):
  with pytest.raises(ValueError, match="no signals"):
    spectrogram_png(tmp_path / "s.png", {}, RATE)
  with pytest.raises(ValueError, match="not empty"):
    spectrogram_png(tmp_path / "s.png", {"original": np.zeros(0)}, RATE)


def test_table_is_plain_text_in_a_pipe(capsys):
  print_table([result(sample="[bold]a[/bold]"), result(label="x" * 100, stoi=math.nan)])
  head, first, second = capsys.readouterr().out.splitlines()
  assert head.split() == ["sample", "rate", "kbps", "bytes", "STOI", "SI-SDR", "dB", "speed"]
  assert first.startswith("[bold]a[/bold]")
  assert first.split()[-5:] == ["6.12", "12,345", "0.988", "-3.2", "4.3x"]
  assert "x" * 100 in second
  assert second.split()[-3] == "-"
  assert head.isascii()


@pytest.mark.slow
def test_matplotlib_is_loaded_only_to_draw():
  code = "import sys, jaxcodec.report; sys.exit('matplotlib' in sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True)
