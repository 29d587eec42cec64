"""Speed of EnCodec, DAC and Mimi: ours against `transformers` in PyTorch, side by side.

Both run the same random weights on the same sound, in turns, in one process with as many threads;
compilation is not counted, and the first turn of each neither. Peak memory is measured in a process
of its own for each contestant. All on the CPU: JAX would load what it has for other devices as
well, and libtpu alone takes 110 MiB.

  pip install torch==2.13.0 && pip install -e ".[parity]"
  python -m benchmarks.audio_codecs --seconds 10 60 --rounds 5
"""

import argparse
import json
import logging
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

CODECS = ("encodec", "dac", "mimi")
CONTESTANTS = ("jaxcodec", "eager", "compiled")
CLASSES = {"encodec": "EncodecModel", "dac": "DacModel", "mimi": "MimiModel"}


def reference_model(name: str):
  """The published model's shape: EnCodec 24 kHz, DAC 44.1 kHz, Mimi."""
  import torch
  import transformers

  torch.manual_seed(0)
  cls = getattr(transformers, CLASSES[name])
  config = cls.config_class()
  if name == "dac":
    config = cls.config_class(sampling_rate=44_100)
  model = cls(config).eval()
  with torch.no_grad():
    for layer in model.modules():  # Codebooks of zeros would make every code the first.
      for attribute in ("embed", "embed_sum"):
        book = layer.__dict__.get("_buffers", {}).get(attribute)
        if book is not None:
          book.normal_()
  return model


def torch_functions(name: str, model, compiled: bool):
  """`encode(wave)` and `decode(codes)`, at the model's highest rate."""
  import torch

  def encode(x):
    if name == "encodec":
      return model.encode(x, bandwidth=model.config.target_bandwidths[-1]).audio_codes
    return model.encode(x).audio_codes

  def decode(codes):
    if name == "encodec":
      return model.decode(codes, [None]).audio_values
    if name == "dac":
      return model.decode(audio_codes=codes).audio_values
    return model.decode(codes).audio_values

  if compiled:
    encode, decode = torch.compile(encode), torch.compile(decode)
  return encode, decode


def sound_of(config, name: str, seconds: float) -> np.ndarray:
  """[1, 1, T] of whole frames."""
  hop = config.hop_length if name != "mimi" else 1920
  steps = round(seconds * config.sampling_rate) // hop * hop
  return np.random.default_rng(0).normal(0, 0.1, (1, 1, steps)).astype(np.float32)


def theirs(name: str, model, x, compiled: bool):
  """A function that encodes and one that decodes, in PyTorch."""
  import torch

  # What torch.compile cannot follow it leaves eager, and says so at length.
  torch._logging.set_logs(dynamo=logging.ERROR)
  wave = torch.from_numpy(x)
  encode, decode = torch_functions(name, model, compiled)
  with torch.inference_mode():
    codes = encode(wave)
  return lambda: encode(wave), lambda: decode(codes)


def ours(directory: str, x):
  """The same of jaxcodec, both until it is done."""
  import jax

  import jaxcodec

  codec, wave = jaxcodec.load(directory), jax.device_put(x.transpose(0, 2, 1))
  encode, decode = jax.jit(jaxcodec.encode), jax.jit(jaxcodec.decode)
  codes = encode(codec, wave)
  return (
    lambda: encode(codec, wave).block_until_ready(),
    lambda: decode(codec, codes).block_until_ready(),
  )


def contestants(name: str, seconds: float, which):
  """For each contestant, a function that encodes and one that decodes."""
  model = reference_model(name)
  x = sound_of(model.config, name, seconds)
  found = {key: theirs(name, model, x, key == "compiled") for key in which if key != "jaxcodec"}
  if "jaxcodec" in which:
    with tempfile.TemporaryDirectory() as directory:
      model.save_pretrained(directory)
      found["jaxcodec"] = ours(directory, x)
  return found


def timed(name: str, seconds: float, rounds: int, which) -> dict[str, dict[str, float]]:
  """Median seconds of each contestant's two functions."""
  import torch

  found = contestants(name, seconds, which)
  times: dict = {key: {"encode": [], "decode": []} for key in found}
  with torch.inference_mode():
    for turn in range(rounds + 1):
      for key, functions in found.items():
        for what, function in zip(("encode", "decode"), functions, strict=True):
          # Threads that wait for more work in a loop, as PyTorch's do, have gone to sleep by then.
          time.sleep(0.3)
          start = time.perf_counter()
          function()
          if turn:
            times[key][what].append(time.perf_counter() - start)
  return {
    key: {what: statistics.median(values) for what, values in both.items()}
    for key, both in times.items()
  }


def peak_memory(name: str, seconds: float, which) -> list[float]:
  """MiB that a process of each contestant's own takes at most, all included."""
  model, peaks = reference_model(name), []
  with tempfile.TemporaryDirectory() as directory:
    model.save_pretrained(directory)
    np.save(pathlib.Path(directory) / "x.npy", sound_of(model.config, name, seconds))
    for key in which:
      command = [sys.executable, "-m", "benchmarks.audio_codecs", "--one", name, directory, key]
      out = subprocess.run(command, capture_output=True, text=True, check=True)
      peaks.append(float(out.stdout.splitlines()[-1]))
  return peaks


def run_one(name: str, directory: str, contestant: str) -> None:
  x = np.load(pathlib.Path(directory) / "x.npy")
  if contestant == "jaxcodec":
    for function in ours(directory, x):
      function()
  else:
    import torch
    import transformers

    cls = getattr(transformers, CLASSES[name])
    with torch.inference_mode():
      for function in theirs(
        name, cls.from_pretrained(directory).eval(), x, contestant == "compiled"
      ):
        function()
  # Not getrusage, which counts in what the process was forked from.
  status = pathlib.Path("/proc/self/status").read_text()
  print(int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 1024)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seconds", type=float, nargs="+", default=[10, 60])
  parser.add_argument("--codecs", nargs="+", choices=CODECS, default=CODECS)
  parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--memory", action="store_true", help="measure peak memory too")
  parser.add_argument("--json", type=pathlib.Path)
  parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
  options = parser.parse_args()
  os.environ["JAX_PLATFORMS"] = "cpu"
  if options.one:
    return run_one(*options.one)
  rows = []
  print(f"{os.cpu_count()} cores; medians of {options.rounds} rounds, seconds; ratios: theirs/ours")
  print(f"{'codec':8} {'sound':>6} {'what':7} {'ours':>8} {'eager':>8} {'compiled':>8}   ratios")
  for name in options.codecs:
    for seconds in options.seconds:
      times = timed(name, seconds, options.rounds, tuple(options.contestants))
      for what in ("encode", "decode"):
        cells = [times.get(key, {}).get(what, float("nan")) for key in CONTESTANTS]
        ratios = " ".join(f"{cell / cells[0]:.2f}" for cell in cells[1:])
        shown = " ".join(f"{cell:8.3f}" for cell in cells)
        print(f"{name:8} {seconds:5g}s {what:7} {shown}   {ratios}", flush=True)
        rows.append({"codec": name, "seconds": seconds, "what": what, "times": cells})
      if options.memory:
        peaks = peak_memory(name, seconds, options.contestants)
        print(f"{name:8} {seconds:5g}s MiB     " + " ".join(f"{peak:8.0f}" for peak in peaks))
        rows.append({"codec": name, "seconds": seconds, "what": "MiB", "peaks": peaks})
  if options.json:
    options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
  main()
