"""Rate and distortion of codecs over a folder of pictures; BD-rates against JPEG, WebP and AVIF.

Command: python -m benchmarks.image_rd FOLDER [--codec NAME|DIR ...] [--qualities 0 50 100]
  [--refine STEPS] [--limit N] [--plot FILE]

FOLDER holds pictures, such as the Kodak suite. Bits are those of whole files, distortions those of
RGB of 8 bits; means are over pictures, and the BD-rate is that of the means.
"""

import argparse
import pathlib

from jaxcodec import evaluate_pictures, picture_baselines, picture_report, terminal


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--codec", nargs="*", default=[terminal.PICTURE_CODEC])
  parser.add_argument("--qualities", nargs="*", type=float, default=evaluate_pictures.QUALITIES)
  parser.add_argument("--refine", type=int, default=0, help="of each picture, beside codecs as is")
  parser.add_argument("--limit", type=int)
  parser.add_argument("--plot", type=pathlib.Path)
  options = parser.parse_args()
  terminal.look_for_no_absent_accelerator()
  systems, missing = picture_baselines.find()
  anchors = list(dict.fromkeys(system.name for system in systems))
  for name in options.codec:
    codec = terminal.load_picture(name)
    systems += evaluate_pictures.codec_systems(name, codec, options.qualities)
    if options.refine:
      name = f"{name}, refined"
      systems += evaluate_pictures.codec_systems(name, codec, options.qualities, options.refine)
  sources = evaluate_pictures.picture_files(options.folder)[: options.limit]
  found = evaluate_pictures.run(systems, sources)
  for line in missing:
    print(line)
  print("| codec | bits/pixel | PSNR, dB | MS-SSIM | encode, s | decode, s |")
  print("|---|---:|---:|---:|---:|---:|")
  for row in found.means:
    print("| " + " | ".join((picture_report.label_of(row), *picture_report.cells(row))) + " |")
  print(f"\nMeans over {found.means[0].files} pictures. BD-rate, %, by PSNR and by MS-SSIM:\n")
  print("| codec | " + " | ".join(f"against {anchor}" for anchor in anchors) + " |")
  print("|---|" + "---:|" * len(anchors))
  rates = {anchor: found.bd_rates(anchor) for anchor in anchors}
  for name in dict.fromkeys(row.system for row in found.means):
    cells = []
    for anchor in anchors:
      values = rates[anchor].get(name)
      cells.append("" if values is None else ", ".join(f"{x:+.1f}" for x in values.values()))
    print(f"| {name} | " + " | ".join(cells) + " |")
  if options.plot:
    picture_report.curves_png(options.plot, found)


if __name__ == "__main__":
  main()
