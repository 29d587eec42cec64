"""The main job on a few samples: code, store, decode, measure, and write a page of them."""

import math
import pathlib
import time
from collections.abc import Sequence

import numpy as np
import soundfile
from rich.progress import track

from jaxcodec import bitstream, demo_pictures, metrics, report
from jaxcodec.audio.files import SoundReader
from jaxcodec.codec import Codec
from jaxcodec.image.latent_codec import LatentCodec

_SAMPLES = pathlib.Path(__file__).parent / "assets" / "samples"


def bundled_samples() -> list[pathlib.Path]:
  """The sound files that come with the package."""
  return sorted(_SAMPLES.glob("*.flac"))


def run(
  codec: Codec,
  sources: Sequence[pathlib.Path],
  out: pathlib.Path,
  picture_codec: LatentCodec | None = None,
  pictures: Sequence[pathlib.Path] = (),
) -> pathlib.Path:
  """Codes each sound at a low, a middle and the top rate; prints a table, returns the page's path.

  Into `out` go the coded files, the decoded sounds, a spectrogram a sound, what `demo_pictures`
  makes of the pictures, and `index.html`.
  """
  out.mkdir(parents=True, exist_ok=True)
  rates = codec.bitrates
  chosen = sorted({rates[0], rates[len(rates) // 2], rates[-1]})
  results, samples = [], []
  for source in track(sources, "coding"):
    reader = SoundReader(source, str(source), codec.sample_rate, codec.channels)
    blocks = [np.zeros((1, 0, codec.channels), np.float32), *reader.blocks()]
    x = np.concatenate(blocks, axis=1)
    found = [_measure(codec, source.stem, x, bitrate, out) for bitrate in chosen]
    picture = out / f"{source.stem}.png"
    waves = {f"{source.stem}, original": x[0]} | {result.label: result.wave for result in found}
    report.spectrogram_png(picture, waves, codec.sample_rate)
    soundfile.write(out / f"{source.stem}.wav", x[0], codec.sample_rate)
    samples.append(report.Sample(source.stem, x[0], codec.sample_rate, picture))
    results += found
  if results:
    report.print_table(results)
  sections = [] if picture_codec is None else demo_pictures.run(picture_codec, pictures, out)
  page = out / "index.html"
  intro = (
    f"Coded with {codec.name}: {codec.sample_rate} Hz, {codec.channels} channel. The rates are "
    "those of the real files, header and checksums included. STOI is the intelligibility measure "
    "of Taal et al. (at most 1); SI-SDR compares waves and is not what the ear hears. Speed counts "
    "coding and decoding together, after compilation."
  )
  if sections:
    assert picture_codec is not None
    intro += (
      f"\n\nPictures are coded with {picture_codec.name}, beside the best JPEG of at most as many "
      "bytes. Bits a pixel are those of the whole file."
    )
  report.html_page(page, "jaxcodec demo", intro, results, samples, "\n".join(sections))
  return page


def _measure(
  codec: Codec, name: str, x: np.ndarray, bitrate: int, out: pathlib.Path
) -> report.Result:
  seconds = x.shape[1] / codec.sample_rate
  for _ in range(2):  # The first time compiles.
    start = time.perf_counter()
    data = bitstream.compress(codec, x, bitrate=bitrate)
    y = bitstream.decompress(data, codec)
    spent = time.perf_counter() - start
  stem = f"{name}-{bitrate / 1000:g}kbps"
  (out / f"{stem}.jxc").write_bytes(data)
  soundfile.write(out / f"{stem}.wav", np.clip(y[0], -1, 1), codec.sample_rate)
  try:
    stoi = metrics.stoi(x[0], y[0], codec.sample_rate)
  except ValueError:  # Too short, or silent: the measure is not defined.
    stoi = math.nan
  return report.Result(
    sample=name,
    label=f"{bitrate / 1000:g} kbit/s",
    kbps=8e-3 * len(data) / seconds if seconds else math.nan,
    num_bytes=len(data),
    stoi=stoi,
    si_sdr=metrics.si_sdr(x[0], y[0]),
    speed=seconds / spent,
    wave=y[0],
  )
