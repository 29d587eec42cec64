"""Results of codecs of pictures to look at: tables, curves of rate and distortion, a page."""

import base64
import html
import io
import math
import os
import string
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxcodec.evaluate_pictures import PictureEvaluation, PictureMeasures


class Version(NamedTuple):
  """One version of a picture, to be seen beside others.

  Attributes:
    label: of what it is.
    detail: its size and measures, in words.
    pixels: uint8 `[H, W, 3]`.
  """

  label: str
  detail: str
  pixels: np.ndarray


def print_table(
  evaluation: PictureEvaluation, anchor: str | None = None, *, stderr: bool = False
) -> None:
  """Prints the means, and BD-rates against `anchor` if it is among the systems."""
  from rich.console import Console
  from rich.table import Table
  from rich.text import Text

  console = Console(highlight=False, stderr=stderr)
  console.width = 200  # No figure is cut; a longer name makes longer lines.
  table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  table.add_column("codec@quality")
  for name in ("bits/pixel", "PSNR dB", "MS-SSIM", "encode s", "decode s"):
    table.add_column(name, justify="right")
  for row in evaluation.means:
    table.add_row(*(Text(cell) for cell in (label_of(row), *cells(row))))
  console.print(table)
  files = evaluation.means[0].files
  of = "Of one picture" if files == 1 else f"Means over {files} pictures"
  console.print(f"\n{of}. Bits: of the whole files. Seconds: a picture.")
  if anchor not in {row.system for row in evaluation.means}:
    return
  assert anchor is not None
  for system, found in evaluation.bd_rates(anchor).items():
    values = (f"{name} {_text(value, '+.1f')} %" for name, value in found.items())
    console.print(Text(f"{system}: BD-rate against {anchor}: {', '.join(values)}"))


def label_of(row: PictureMeasures) -> str:
  return row.system if row.setting is None else f"{row.system}@{row.setting:g}"


def cells(row: PictureMeasures) -> list[str]:
  """Rate, distortions and times as text."""
  return [
    _text(row.bits_per_pixel, ".4f"),
    _text(row.psnr, ".2f"),
    _text(row.ms_ssim, ".4f"),
    _text(row.encode_seconds, ".3f"),
    _text(row.decode_seconds, ".3f"),
  ]


def curves_png(path: str | os.PathLike[str] | io.BytesIO, evaluation: PictureEvaluation) -> None:
  """Draws PSNR, and MS-SSIM where it is defined, over bits a pixel: a line for each system."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  ink = "#7b818a"  # On a transparent ground this reads on white and on near-black.
  measures = [("psnr", "PSNR, dB"), ("ms_ssim", "MS-SSIM, dB")]
  if all(math.isnan(row.ms_ssim) for row in evaluation.means):
    measures = measures[:1]
  figure = Figure(figsize=(6 * len(measures), 4.2), dpi=100, layout="constrained", facecolor="none")
  canvas = FigureCanvasAgg(figure)
  panels = figure.subplots(1, len(measures), squeeze=False)[0]
  names = dict.fromkeys(row.system for row in evaluation.means)
  for panel, (measure, label) in zip(panels, measures, strict=True):
    for name in names:
      rates, values = evaluation.curve(name, measure)
      panel.plot(rates, values, marker="o", markersize=4, label=name.replace("$", r"\$"))
    panel.set_facecolor("none")
    panel.set_xlabel("bits a pixel", color=ink)
    panel.set_ylabel(label, color=ink)
    panel.tick_params(color=ink, labelcolor=ink)
    panel.spines[:].set_color(ink)
    panel.grid(alpha=0.3)
  panels[0].legend(labelcolor=ink, facecolor="none", edgecolor=ink)
  canvas.print_png(path, metadata={"Software": None}, pil_kwargs={"optimize": True})


def section(name: str, versions: Sequence[Version], curves: bytes | None = None) -> str:
  """HTML of one picture's versions side by side, and of its curves: a part of `report`'s page."""
  shown = "\n".join(
    f'<li><img src="{_url(version.pixels)}" alt="{html.escape(f"{name}, {version.label}")}">'
    f"<b>{html.escape(version.label)}</b> <small>{html.escape(version.detail)}</small></li>"
    for version in versions
  )
  below = ""
  if curves is not None:
    alt = html.escape(f"Distortion over rate for {name}")
    url = f"data:image/png;base64,{base64.b64encode(curves).decode('ascii')}"
    below = f'<div class="scroll"><img class="curves" src="{url}" alt="{alt}"></div>'
  height, width = versions[0].pixels.shape[:2]
  return _SECTION.substitute(
    name=html.escape(name), about=f"{width} x {height} pixels", shown=shown, below=below
  )


def _url(pixels: np.ndarray) -> str:
  file = io.BytesIO()
  # WebP without loss: a page of PNG files would be a quarter larger.
  Image.fromarray(pixels).save(file, "WEBP", lossless=True)
  return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _text(value: float, form: str) -> str:
  return "-" if math.isnan(value) else format(value, form)


_SECTION = string.Template("""\
<section aria-label="$name">
<h2>$name <small>$about</small></h2>
<ul class="pictures">
$shown
</ul>
$below
</section>""")
