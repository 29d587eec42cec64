"""The bundled speech codec on held-out speakers: real bytes, intelligibility, wave error, speed.

Command: python benchmarks/speech_codec.py --data SPEECH_DIR

SPEECH_DIR holds `speech_test.tar`. Means over clips; the rate is that of all files together.
"""

import argparse
import io
import pathlib
import tarfile
import time

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import track

import jaxcodec
from jaxcodec import metrics, terminal


def read_clips(path: pathlib.Path) -> dict[str, np.ndarray]:
  with tarfile.open(path) as tar:
    files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
    return {
      name: soundfile.read(io.BytesIO(file.read()), dtype="float32")[0]
      for name, file in files.items()
      if file is not None
    }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--codec", default="speech-16khz")
  options = parser.parse_args()
  codec = jaxcodec.load(options.codec)
  clips = read_clips(options.data / "speech_test.tar")
  sources = {"LibriSpeech": ".flac", "speechocean762": ".opus"}
  print("| speech | asked, kbit/s | real, kbit/s | STOI | worst STOI | SI-SDR, dB | mel | speed |")
  print("|---|---:|---:|---:|---:|---:|---:|---:|")
  for source, suffix in sources.items():
    waves = [wave for name, wave in clips.items() if name.endswith(suffix)]
    for bitrate in codec.bitrates:
      print(row(codec, source, waves, bitrate), flush=True)


def row(codec, source: str, waves: list[np.ndarray], bitrate: int) -> str:
  jaxcodec.decompress(jaxcodec.compress(codec, waves[0][None, :, None], bitrate=bitrate), codec)
  size, spent, found = 0, 0.0, []
  for wave in track(waves, f"{source} {bitrate}", transient=True, console=Console(stderr=True)):
    start = time.perf_counter()
    data = jaxcodec.compress(codec, wave[None, :, None], bitrate=bitrate)
    decoded = jaxcodec.decompress(data, codec)[0, :, 0]
    spent += time.perf_counter() - start
    size += len(data)
    found.append(
      (
        metrics.stoi(wave, decoded, codec.sample_rate),
        metrics.si_sdr(wave, decoded),
        metrics.mel_distance(wave, decoded, codec.sample_rate),
      )
    )
  seconds = sum(map(len, waves)) / codec.sample_rate
  stoi, si_sdr, mel = np.mean(found, axis=0)
  worst = min(stoi for stoi, _, _ in found)
  return (
    f"| {source} | {bitrate / 1000:g} | {8e-3 * size / seconds:.2f} | {stoi:.3f} | {worst:.3f} "
    f"| {si_sdr:.1f} | {mel:.2f} | {seconds / spent:.0f}x |"
  )


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
