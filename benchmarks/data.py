"""How fast batches of sound come, how much of them is padding, and what placing them ahead saves.

    python -m benchmarks.data SOUNDS [--seconds 4.0] [--rows 16] [--batches 30]

SOUNDS is a folder, a tar or a prepared dataset. Batches are read at 16 kHz by four threads: crops
of one length, crops of three lengths, and whole files packed into rows. Then a small step of
training takes crops, put on the device before each step or while the step before runs; the two
alternate, and the figure is the median of five rounds.
"""

import argparse
import dataclasses
import functools
import statistics
import time

import jax
import numpy as np

from configs import speech_16khz
from jaxcodec import terminal
from jaxcodec.data import pipeline
from jaxcodec.data.sound import Packed, Sound
from jaxcodec.training.state import init_state
from jaxcodec.training.step import train_step


def kinds(source: str, seconds: float) -> dict[str, Sound]:
  base = Sound(sources=(source,), segment_seconds=seconds)
  return {
    "crops of one length": base,
    "crops of three lengths": dataclasses.replace(base, buckets=(seconds / 4, seconds / 2)),
    "packed": dataclasses.replace(base, packed=True),
  }


def read(sound: Sound, codec, rows: int, number: int) -> tuple[float, float, float]:
  """`(batches a second, seconds of sound a second, share of samples that are padding)`."""
  data = pipeline.dataset(sound, codec, batch_size=rows, num_steps=number + 8, seed=0)
  batches = pipeline.batches(sound, data)
  next(batches)
  start, heard, size = time.perf_counter(), 0, 0
  for _ in range(number):
    batch = next(batches)
    x = batch.x if isinstance(batch, Packed) else batch
    # Files of 16 bits have zeros of their own; what follows the last other sample is padding.
    ends = x.shape[1] - np.argmax(x[:, ::-1, 0] != 0, axis=1)
    heard, size = heard + int(ends.sum()), size + x.shape[0] * x.shape[1]
  taken = time.perf_counter() - start
  return number / taken, heard / codec.sample_rate / taken, 1 - heard / size


def train(config, ahead: bool, number: int):
  """A function that takes `number` steps and returns the seconds that they took."""
  data = pipeline.dataset(
    config.data, config.codec, batch_size=config.batch_size, num_steps=10**6, seed=0
  )
  batches = map(jax.device_put, pipeline.batches(config.data, data))
  key = jax.random.key(0)
  state = jax.jit(functools.partial(init_state, config=config))(key)
  step = jax.jit(functools.partial(train_step, config=config), donate_argnums=0)
  following = next(batches)

  def take() -> float:
    nonlocal state, following
    start = time.perf_counter()
    for _ in range(number):
      batch = following
      state, metrics = step(state, batch, key)
      if ahead:
        following = next(batches)
      float(metrics["objective"])
      if not ahead:
        following = next(batches)
    return time.perf_counter() - start

  return take


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("sounds")
  parser.add_argument("--seconds", type=float, default=4.0)
  parser.add_argument("--rows", type=int, default=16)
  parser.add_argument("--batches", type=int, default=30)
  options = parser.parse_args()
  config = speech_16khz.tiny()
  print("| batches | batches/s | hours of sound an hour | padding |\n|---|---:|---:|---:|")
  for name, sound in kinds(options.sounds, options.seconds).items():
    rate, heard, padding = read(sound, config.codec, options.rows, options.batches)
    print(f"| {name} | {rate:.1f} | {heard:.0f} | {100 * padding:.1f} % |", flush=True)
  sound = kinds(options.sounds, options.seconds)["crops of one length"]
  config = dataclasses.replace(config, data=sound, batch_size=options.rows, num_steps=10**6)
  runs = {
    "placed before the step": train(config, False, options.batches),
    "placed while the step before runs": train(config, True, options.batches),
  }
  for run in runs.values():
    run()  # Compiles.
  times: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(5):
    for name, run in runs.items():
      times[name].append(run())
  print("\n| steps | steps/s |\n|---|---:|")
  for name, taken in times.items():
    print(f"| {name} | {options.batches / statistics.median(taken):.1f} |")


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
