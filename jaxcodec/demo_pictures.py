"""The demo's pictures: code each at some rates, beside JPEG at equal bytes, and draw the curves."""

import io
import pathlib
from collections.abc import Sequence

from rich.progress import track

from jaxcodec import evaluate_pictures, metrics, picture_baselines, picture_file, picture_report
from jaxcodec.image import files
from jaxcodec.image.latent_codec import LatentCodec
from jaxcodec.picture_report import Version

_PICTURES = pathlib.Path(__file__).parent / "assets" / "pictures"
_SHOWN = (15, 60)  # Qualities that are shown beside JPEG.


def bundled_pictures() -> list[pathlib.Path]:
  """The picture files that come with the package."""
  return sorted(_PICTURES.glob("*.webp"))


def run(codec: LatentCodec, sources: Sequence[pathlib.Path], out: pathlib.Path) -> list[str]:
  """Codes each picture, prints a table, and returns a section of HTML for each.

  Into `out` go the coded files and the decoded pictures.
  """
  systems = evaluate_pictures.codec_systems(codec.name, codec, (0, 25, 50, 75, 100))
  systems += picture_baselines.find()[0]
  sections = []
  for source in track(sources, "coding pictures"):
    read = files.read_picture(source, str(source))
    pixels = read.samples[0]
    evaluation = evaluate_pictures.run(systems, [source])
    curves = io.BytesIO()
    picture_report.curves_png(curves, evaluation)
    versions = [Version("original", f"{pixels.nbytes:,} bytes as pixels", pixels)]
    for quality in _SHOWN if codec.module.levels else (None,):
      data = picture_file.compress(codec, read.x, quality=quality)
      ours = files.to_bytes(picture_file.decompress(data, codec, max_memory=2**40), 3)
      jpeg, _ = picture_baselines.jpeg_of(pixels, len(data))
      label = codec.name if quality is None else f"{codec.name}, quality {quality}"
      stem = f"{source.stem}-{codec.name}" + ("" if quality is None else f"-{quality}")
      (out / f"{stem}.jxc").write_bytes(data)
      files.write_picture(out / f"{stem}.png", "PNG", ours, read.profile)
      versions.append(Version(label, _detail(pixels, ours, len(data)), ours))
      detail = _detail(pixels, jpeg.pixels, jpeg.num_bytes)
      versions.append(Version("JPEG at equal bytes", detail, jpeg.pixels))
    picture_report.print_table(evaluation, "jpeg")
    sections.append(picture_report.section(source.stem, versions, curves.getvalue()))
  return sections


def _detail(pixels, decoded, num_bytes: int) -> str:
  bits = 8 * num_bytes / (pixels.shape[0] * pixels.shape[1])
  return f"{num_bytes:,} bytes, {bits:.2f} bits a pixel, {metrics.psnr(pixels, decoded):.1f} dB"
