"""What a run sounds and looks like: decoded signals, their spectrograms, and the use of codes."""

import functools
import pathlib

import jax
import numpy as np
import soundfile
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from jaxcodec.audio.sound_codec import SoundCodec
from jaxcodec.data.sound import signal_of
from jaxcodec.functional import spectral
from jaxcodec.training.config import Train
from jaxcodec.training.state import TrainState
from jaxcodec.training.watch import Log

_SECONDS = 4.0  # Of sound, at most, that are shown.


def show(
  log: Log, state: TrainState, batch, step: int, workdir: pathlib.Path, mesh: Mesh, config: Train
) -> None:
  """Writes the first row of a batch and what the averaged weights make of it.

  They go to `workdir/samples` and to TensorBoard, with spectrograms and the use of codes.
  """
  batch = signal_of(batch)
  # On every process, as each has a part of what the first one shows.
  x, y, usage = _decoded(config, mesh)(state.average, batch, state.usage)
  if jax.process_index() > 0:
    return
  folder = workdir / "samples"
  folder.mkdir(exist_ok=True)
  signals = {"original": np.asarray(x).clip(-1, 1), "decoded": np.asarray(y).clip(-1, 1)}
  write = _write_sounds if isinstance(config.codec, SoundCodec) else _write_pictures
  write(log, signals, step, folder / f"{step:08}", config)
  log.figure("codes", _usage(np.asarray(usage)), step)


def _write_sounds(log: Log, signals, step: int, start: pathlib.Path, config: Train) -> None:
  rate = config.codec.sample_rate
  for name, wave in signals.items():
    soundfile.write(f"{start}_{name}.wav", wave, rate)
    log.sound(name, wave[:, 0], step, rate)
  x, y = (wave[:, 0] for wave in signals.values())
  log.figure("spectrograms", _spectrograms(x, y, rate), step)


def _write_pictures(log: Log, signals, step: int, start: pathlib.Path, config: Train) -> None:
  del config
  for name, x in signals.items():
    pixels = np.round(127.5 * (x + 1)).astype(np.uint8)
    Image.fromarray(pixels.squeeze()).save(f"{start}_{name}.png")
    log.picture(name, pixels, step)


@functools.cache
def _decoded(config: Train, mesh: Mesh):
  """A function of weights, a batch and the use of codes: what of them is shown, on every device."""

  def decoded(params, batch, usage):
    x = batch[:1]
    if isinstance(config.codec, SoundCodec):
      x = x[:, : int(_SECONDS * config.codec.sample_rate)]
    return x[0], config.codec.apply({"params": params}, x)[0], usage

  return jax.jit(decoded, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _figure(width: float, height: float):
  # Not by pyplot, which keeps every figure and asks for a screen.
  from matplotlib.figure import Figure

  return Figure(figsize=(width, height), layout="constrained")


def _spectrograms(x: np.ndarray, y: np.ndarray, rate: int):
  figure = _figure(8, 5)
  for axes, wave, name in zip(figure.subplots(2, 1), (x, y), ("original", "decoded"), strict=True):
    window = min(512, len(wave) // 4 * 4)
    level = 20 * np.log10(np.asarray(spectral.stft_magnitude(wave, window, window // 4)) + 1e-4)
    extent = (0, len(wave) / rate, 0, rate / 2000)
    axes.imshow(level.T, origin="lower", aspect="auto", extent=extent, vmin=-80, vmax=20)
    axes.set(title=name, xlabel="s", ylabel="kHz")
  return figure


def _usage(usage: np.ndarray):
  figure = _figure(8, 3)
  axes = figure.subplots()
  for stage, counts in enumerate(usage):
    share = np.sort(counts)[::-1] / max(counts.sum(), 1e-9)
    axes.plot(np.cumsum(share), label=str(stage) if len(usage) <= 12 else None)
  axes.set(xlabel="entries, the most used first", ylabel="share of codes")
  if len(usage) <= 12:
    axes.legend(title="codebook", fontsize="small", ncols=2)
  return figure
