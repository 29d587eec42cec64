"""Makes the three sounds in jaxcodec/assets/samples, for demonstrations and for listening.

Command: python -m launch.make_samples --out jaxcodec/assets/samples
Needs `flite` (apt-get install flite) with its voices slt and rms, which Carnegie Mellon lets
anyone use without restriction; the conditions of that licence concern copies of the program.

voice_a and voice_b: sentences of our own, spoken by flite at 16 kHz; then the sound of a small
room (decaying noise 20 dB below the voice) and pink noise 45 dB below it, because a synthetic
voice on digital silence is easier to code than anything a microphone gives.
strings: a short tune of ours on plucked strings, made of arithmetic alone (Karplus and Strong,
"Digital synthesis of plucked-string and drum timbres", Computer Music Journal 7(2), 1983).

Licence: the sounds and their texts are ours, dedicated to the public domain (CC0 1.0).
Noise is seeded; another version of flite may speak a little differently.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import soundfile
from scipy import signal

from jaxcodec import terminal

SAMPLE_RATE = 16_000  # Hz
LEVEL = -23.0  # dBFS, root mean square over the whole file

VOICES = {
  "voice_a": (
    "slt",
    "Good morning. These words were squeezed into a few hundred bytes. Did they all arrive?",
  ),
  "voice_b": (
    "rms",
    "A codec keeps the numbers that matter, and makes a careful guess at all the others.",
  ),
}

# Start in seconds and MIDI note: a slow climb, a turn, and home.
TUNE = [
  (0.00, 45), (0.02, 57), (0.36, 60), (0.72, 64), (1.08, 69), (1.44, 71), (1.62, 72),
  (1.80, 71), (2.16, 67), (2.18, 48), (2.52, 64), (2.70, 62), (2.88, 57), (2.90, 45),
]  # fmt: skip


def speak(voice: str, text: str) -> np.ndarray:
  """`text` read by a flite voice: float64 `[time]` at 16 kHz."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "speech.wav"
    subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(path)], check=True)
    wave, sample_rate = soundfile.read(path)
  if sample_rate != SAMPLE_RATE:
    raise ValueError(f"flite's voice {voice} speaks at {sample_rate} Hz, not {SAMPLE_RATE}")
  return wave


def add_room(voice: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """The voice with the echoes of a small room: 60 dB of decay in 0.25 s, 20 dB below it."""
  time = np.arange(int(0.3 * SAMPLE_RATE)) / SAMPLE_RATE
  response = rng.standard_normal(len(time)) * 10 ** (-3 * time / 0.25)
  response[time < 0.004] = 0  # The first wall is more than half a metre away.
  voice = np.pad(voice, (0, len(time) // 2))
  echoes = signal.fftconvolve(voice, response)[: len(voice)]
  # Walls and air take the highs.
  echoes = signal.lfilter(*signal.butter(1, 3000, fs=SAMPLE_RATE), echoes)
  return voice + at_level(echoes, decibels(voice) - 20)


def pink_noise(length: int, rng: np.random.Generator) -> np.ndarray:
  """Noise whose power falls by 3 dB an octave, flat below 50 Hz."""
  spectrum = np.fft.rfft(rng.standard_normal(length))
  frequency = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
  return np.fft.irfft(spectrum / np.sqrt(np.maximum(frequency, 50)), length)


def pluck(note: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
  """One plucked string: a burst of noise that circulates in a delay line and is smoothed."""
  period = SAMPLE_RATE / (440 * 2 ** ((note - 69) / 12))
  # The smoothing delays by half a sample, an all-pass by the fraction, the line by the rest.
  delay = int(period - 0.6)
  fraction = period - 0.5 - delay
  allpass = (1 - fraction) / (1 + fraction)
  line = rng.uniform(-1, 1, delay)
  line = signal.lfilter([0.5, 0.5], [1], line)  # A soft pick.
  out = np.zeros(int(seconds * SAMPLE_RATE))
  last = before = passed = 0.0
  for i in range(len(out)):
    last = line[i % delay]
    smooth = 0.998 * (0.5 * last + 0.5 * before)
    passed_now = allpass * smooth + passed
    passed = smooth - allpass * passed_now
    before = last
    line[i % delay] = passed_now
    out[i] = last
  return out


def strings(rng: np.random.Generator, seconds: float = 4.0) -> np.ndarray:
  """The tune, every string ringing on until the end, faded over the last half second."""
  out = np.zeros(int(seconds * SAMPLE_RATE))
  for start, note in TUNE:
    first = int(start * SAMPLE_RATE)
    sound = pluck(note, seconds - start, rng)[: len(out) - first]
    out[first : first + len(sound)] += sound
  out = signal.sosfilt(signal.butter(2, 40, "high", fs=SAMPLE_RATE, output="sos"), out)
  fade = SAMPLE_RATE // 2
  out[-fade:] *= np.cos(np.linspace(0, np.pi / 2, fade)) ** 2
  return out


def decibels(wave: np.ndarray) -> float:
  return float(10 * np.log10(np.mean(wave**2)))


def at_level(wave: np.ndarray, level: float) -> np.ndarray:
  return wave * 10 ** ((level - decibels(wave)) / 20)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command with `arguments`, `sys.argv` if None, and returns its exit status."""
  parser = terminal.Parser(prog="launch.make_samples", description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the files")
  try:
    out = parser.parse_args(arguments).out
    if not shutil.which("flite"):
      raise terminal.UsageError("the program flite is not installed")
  except terminal.UsageError as error:
    print(f"launch.make_samples: {error}", file=sys.stderr)
    return 2
  out.mkdir(parents=True, exist_ok=True)

  sounds = {}
  for seed, (name, (voice, text)) in enumerate(VOICES.items()):
    rng = np.random.default_rng(seed)
    wave = add_room(speak(voice, text), rng)
    sounds[name] = wave + at_level(pink_noise(len(wave), rng), decibels(wave) - 45)
  sounds["strings"] = strings(np.random.default_rng(7))

  for name, wave in sounds.items():
    wave = at_level(wave, LEVEL)
    peak = np.abs(wave).max()
    if peak >= 0.9:
      raise ValueError(f"{name} peaks at {peak:.2f} of full scale; lower LEVEL")
    path = out / f"{name}.flac"
    soundfile.write(path, wave, SAMPLE_RATE, subtype="PCM_16")
    size = path.stat().st_size
    print(
      f"{name:8} {len(wave) / SAMPLE_RATE:.2f} s  {decibels(wave):.1f} dBFS  "
      f"peak {peak:.2f}  {size:,} bytes"
    )
  return 0


if __name__ == "__main__":
  sys.exit(main())
