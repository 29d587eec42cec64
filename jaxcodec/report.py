"""Results of a codec to look at and listen to: a picture, a page and a table.

`spectrogram_png` draws an original above what was decoded from it, `html_page` writes one file
that holds sounds, pictures and figures, `print_table` prints the figures.
"""

import base64
import dataclasses
import html
import io
import math
import os
import pathlib
import string
import wave as wave_file
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from jaxcodec.metrics.spectral import magnitudes


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
  """One sample, coded at one rate and decoded.

  A measure that does not apply is `nan`, and is shown as a dash.

  Attributes:
    sample: name of the `Sample`.
    label: the rate that was asked for, in words, such as "8 codebooks".
    kbps: 1000 bit/s of the real file, its header included.
    num_bytes: size of that file.
    stoi: short-time objective intelligibility, at most 1.
    si_sdr: scale-invariant signal-to-distortion ratio, dB.
    speed: seconds of sound coded and decoded in a second.
    wave: what was decoded, `[time]` or `[time, channels]`, full scale 1.
  """

  sample: str
  label: str
  kbps: float
  num_bytes: int
  stoi: float
  si_sdr: float
  speed: float
  wave: ArrayLike


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
  """An original.

  Attributes:
    name: what the results call it.
    wave: `[time]` or `[time, channels]`, full scale 1.
    sample_rate: Hz, of the original and of everything decoded from it.
    spectrogram: PNG file that `spectrogram_png` wrote.
  """

  name: str
  wave: ArrayLike
  sample_rate: int
  spectrogram: str | os.PathLike[str]


def spectrogram_png(
  path: str | os.PathLike[str], waves: Mapping[str, ArrayLike], sample_rate: int
) -> None:
  """Draws log-magnitude spectrograms under each other: 1200 pixels wide, PNG.

  Args:
    path: the file to write.
    waves: title to signal, `[time]` or `[time, channels]` (averaged); the original comes first,
      and 0 dB in every panel is its loudest point.
    sample_rate: Hz, of all of them.

  Raises:
    ValueError: if there is no signal, or one without samples.
  """
  from matplotlib import colormaps
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  if not waves:
    raise ValueError("no signals to draw")
  ink = "#7b818a"  # On a transparent ground this reads on white and on near-black.
  # Steps of 1.25 dB: invisible, and half the bytes of a picture that noise makes hard to pack.
  colours = colormaps["magma"].resampled(64)
  spectra = {title: _spectrogram(wave, sample_rate) for title, wave in waves.items()}
  loudest = max(next(iter(spectra.values())).max(), 1e-5)
  seconds = max(len(np.asarray(wave)) for wave in waves.values()) / sample_rate

  # The sizes of text and margins are absolute, so the height follows the number of panels.
  height = 0.55 + 1.95 * len(spectra)
  figure = Figure(figsize=(12, height), dpi=100, layout="constrained", facecolor="none")
  canvas = FigureCanvasAgg(figure)
  panels = figure.subplots(len(spectra), 1, sharex=True, squeeze=False)[:, 0]
  for panel, (title, spectrum) in zip(panels, spectra.items(), strict=True):
    picture = panel.imshow(
      20 * np.log10(np.maximum(spectrum.T / loudest, 1e-6)),
      origin="lower",
      aspect="auto",
      extent=(0, len(np.asarray(waves[title])) / sample_rate, 0, sample_rate / 2000),
      cmap=colours,
      vmin=-80,
      vmax=0,
      interpolation="antialiased",
      interpolation_stage="data",
    )
    # Dollar signs in a title are not mathematics.
    panel.set_title(title, loc="left", fontsize=13, color=ink, parse_math=False)
    panel.set_ylabel("kHz", fontsize=12, color=ink)
    panel.tick_params(labelsize=11, color=ink, labelcolor=ink)
    panel.spines[:].set_visible(False)
    panel.set_xlim(0, seconds)
  panels[-1].set_xlabel("s", fontsize=12, color=ink)
  bar = figure.colorbar(picture, ax=list(panels), pad=0.012, fraction=0.03, aspect=12 * len(panels))
  bar.set_label("dB", fontsize=12, color=ink)
  bar.set_ticks([0, -20, -40, -60, -80])
  bar.ax.tick_params(labelsize=11, color=ink, labelcolor=ink)
  bar.outline.set_visible(False)
  canvas.print_png(path, metadata={"Software": None}, pil_kwargs={"optimize": True})


def html_page(
  path: str | os.PathLike[str],
  title: str,
  intro: str,
  rows: Sequence[Result],
  samples: Sequence[Sample],
  pictures: str = "",
) -> None:
  """Writes one HTML file that needs no other: table, players and spectrograms.

  Sounds go in as 16-bit WAV. Starting a player stops the others, and goes on from where another
  of the same sample was, so that rates can be compared on the same word.

  Args:
    path: the file to write.
    title: heading, plain text.
    intro: what was done, plain text; an empty line starts a paragraph.
    rows: results, in the order to show them.
    samples: the originals, in the order to show them.
    pictures: HTML to put after the sounds, such as of `picture_report.section`.

  Raises:
    ValueError: if a result's sample is not among `samples`, or two samples share a name.
  """
  names = [sample.name for sample in samples]
  if len(set(names)) < len(names):
    raise ValueError(f"two samples share a name: {names}")
  for row in rows:
    if row.sample not in names:
      raise ValueError(f"a result is of sample {row.sample!r}, the samples are {names}")

  groups = [(sample, [row for row in rows if row.sample == sample.name]) for sample in samples]
  paragraphs = [part for part in intro.split("\n\n") if part.strip()]
  page = _PAGE.substitute(
    title=html.escape(title),
    intro="\n".join(f"<p>{html.escape(part.strip())}</p>" for part in paragraphs),
    table="\n".join(_table_body(sample, results) for sample, results in groups if results),
    sections="\n".join(_section(sample, results) for sample, results in groups),
    pictures=pictures,
  )
  pathlib.Path(path).write_text(page, encoding="utf-8", newline="\n")


def print_table(results: Sequence[Result]) -> None:
  """Prints the figures to standard output: coloured in a terminal, plain text elsewhere."""
  from rich import box
  from rich.console import Console
  from rich.table import Table
  from rich.text import Text

  console = Console(highlight=False)
  if not console.is_terminal:
    console.width = 200  # A file has no edge at which to break lines.
  table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
  for name in _COLUMNS:
    table.add_column(name, justify="left" if name in ("sample", "rate") else "right")
  last = None
  for result in results:
    cells = (result.sample, result.label, *_figures(result, missing="-"))
    style = "bold" if result.sample != last else ""
    last = result.sample
    # Text, because a name in square brackets is not markup.
    table.add_row(Text(cells[0], style=style), *(Text(cell) for cell in cells[1:]))
  console.print(table)


_COLUMNS = ("sample", "rate", "kbps", "bytes", "STOI", "SI-SDR dB", "speed")


def _figures(result: Result, missing: str) -> tuple[str, ...]:
  """The columns after the first two, as text."""

  def text(value: float, form: str) -> str:
    return missing if math.isnan(value) else format(value, form)

  speed = text(result.speed, ".0f" if result.speed >= 10 else ".1f")
  return (
    text(result.kbps, ".2f"),
    f"{result.num_bytes:,}",
    text(result.stoi, ".3f"),
    text(result.si_sdr, ".1f"),
    speed if speed == missing else f"{speed}x",
  )


def _spectrogram(wave: ArrayLike, sample_rate: int) -> np.ndarray:
  """Amplitudes `[frames, bins]`, about as many frames as a picture has columns."""
  samples = _channels(wave).mean(axis=1)
  window = 2 ** math.ceil(math.log2(0.032 * sample_rate))
  hop = max(window // 8, math.ceil(len(samples) / 2400))
  return magnitudes(samples, window, hop) * (4 / window)


def _channels(wave: ArrayLike) -> np.ndarray:
  """`wave` as `[time, channels]`."""
  samples = np.asarray(wave, np.float64)
  if samples.ndim not in (1, 2) or samples.size == 0:
    raise ValueError(f"a wave must be [time] or [time, channels], not empty; got {samples.shape}")
  return samples.reshape(len(samples), -1)


def _wav(wave: ArrayLike, sample_rate: int) -> bytes:
  """A 16-bit WAV file; what exceeds full scale is clipped."""
  samples = _channels(wave)
  pcm = np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2")
  buffer = io.BytesIO()
  with wave_file.open(buffer, "wb") as file:
    file.setnchannels(samples.shape[1])
    file.setsampwidth(2)
    file.setframerate(sample_rate)
    file.writeframes(pcm.tobytes())
  return buffer.getvalue()


def _data_url(kind: str, data: bytes) -> str:
  return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _table_body(sample: Sample, results: Sequence[Result]) -> str:
  lines = [f'<tbody><tr><th scope="rowgroup" colspan="6">{html.escape(sample.name)}</th></tr>']
  for result in results:
    cells = "".join(f"<td>{cell}</td>" for cell in _figures(result, missing="&ndash;"))
    lines.append(f'<tr><th scope="row">{html.escape(result.label)}</th>{cells}</tr>')
  return "\n".join(lines) + "</tbody>"


def _section(sample: Sample, results: Sequence[Result]) -> str:
  samples = _channels(sample.wave)
  seconds = len(samples) / sample.sample_rate
  pcm_kbps = 16 * samples.shape[1] * sample.sample_rate / 1000
  players = [_player(sample, "original", f"{pcm_kbps:,.0f} kbps, 16-bit PCM", sample.wave)]
  for result in results:
    kbps, size, *_ = _figures(result, missing="&ndash;")
    players.append(_player(sample, result.label, f"{kbps} kbps, {size} bytes", result.wave))
  labels = ", ".join(["the original", *(result.label for result in results)])
  picture = _data_url("image/png", pathlib.Path(sample.spectrogram).read_bytes())
  name = html.escape(sample.name)
  return _SECTION.substitute(
    name=name,
    about=f"{seconds:.1f} s at {sample.sample_rate / 1000:g} kHz",
    players="\n".join(players),
    picture=picture,
    alt=html.escape(f"Spectrograms of {sample.name}, from top to bottom: {labels}"),
  )


def _player(sample: Sample, label: str, detail: str, wave: ArrayLike) -> str:
  source = _data_url("audio/wav", _wav(wave, sample.sample_rate))
  return (
    f"<li><b>{html.escape(label)}</b> <small>{html.escape(detail)}</small>"
    f'<audio controls preload="metadata" src="{source}"'
    f' aria-label="{html.escape(f"{sample.name}, {label}")}"></audio></li>'
  )


_SECTION = string.Template("""\
<section aria-label="$name">
<h2>$name <small>$about</small></h2>
<ul class="players">
$players
</ul>
<div class="scroll" role="region" aria-label="Spectrograms of $name" tabindex="0">
<img src="$picture" alt="$alt">
</div>
</section>""")

# The policy in the head makes browsers refuse every request: the file is all there is.
_PAGE = string.Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { --ground: #fcfcfa; --card: #fff; --ink: #1d2126; --faint: #5d646d; --line: #e2e3e0; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14161a; --card: #1c1f24; --ink: #e6e7e9; --faint: #a0a6af; --line: #30343b; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 2.5rem clamp(1rem, 4vw, 2.5rem) 4rem;
  background: var(--ground); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: clamp(1.6rem, 5vw, 2.2rem); line-height: 1.2; letter-spacing: -.01em;
  margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 3rem 0 .75rem; overflow-wrap: anywhere; }
p { max-width: 42rem; margin: 0 0 .75rem; white-space: pre-line; overflow-wrap: anywhere; }
small { color: var(--faint); font-size: .85rem; font-weight: 400; }
.scroll { overflow-x: auto; }
header + main > .scroll { margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); font-size: .85rem; padding-bottom: .5rem; }
th, td { padding: .35rem 0 .35rem 1rem; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; font-weight: 400; white-space: normal; }
thead th, thead th:first-child { color: var(--faint); font-size: .85rem; font-weight: 400; }
tbody tr { border-top: 1px solid var(--line); }
tbody th[scope=rowgroup] { font-weight: 600; padding-top: 1.1rem; }
.hint { margin: 2.5rem 0 -1.5rem; max-width: none; white-space: normal; }
.players { list-style: none; margin: 0 0 1rem; padding: 0; display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 14.5rem), 1fr)); }
.players li { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .7rem .8rem .8rem; }
.players small { display: block; }
audio { display: block; width: 100%; height: 2.5rem; margin-top: .5rem; }
img { display: block; width: 100%; min-width: 44rem; height: auto; }
.pictures { list-style: none; margin: 0 0 1rem; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.pictures img { min-width: 0; margin-bottom: .4rem; }
.pictures small { display: block; }
</style>
</head>
<body>
<header>
<h1>$title</h1>
$intro
</header>
<main>
<div class="scroll" role="region" aria-label="Figures" tabindex="0">
<table>
<caption>kbps and bytes are those of the whole file. STOI: intelligibility, at most 1. SI-SDR: \
distortion in dB, higher is closer. Speed: coding and decoding against real time.</caption>
<thead><tr><th scope="col">rate</th><th scope="col">kbps</th><th scope="col">bytes</th>\
<th scope="col">STOI</th><th scope="col">SI-SDR</th><th scope="col">speed</th></tr></thead>
$table
</table>
</div>
<p class="hint"><small>To compare, start one player and then another of the same sample: it goes \
on from where the first one was.</small></p>
$sections
$pictures
</main>
<script>
const players = [...document.querySelectorAll("audio")];
const list = (player) => player.closest(".players");
for (const player of players) {
  player.addEventListener("play", () => {
    for (const other of players) {
      if (other === player || other.paused) continue;
      other.pause();
      if (list(other) === list(player)) player.currentTime = other.currentTime;
    }
  });
}
</script>
</body>
</html>
""")
