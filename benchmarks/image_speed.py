"""Pictures to bytes and back beside CompressAI: the same weights, the same picture, on CPU.

Command: python -m benchmarks.image_speed PICTURE --peer PYTHON [--runs 7] [--only NAME ...]

PYTHON is the interpreter of an environment with CompressAI 1.2.8, which pins other packages than
the library does. Each side is a process of its own that stays: their runs alternate, and figures
are medians. N is 128 and M 192, of ELIC 192 and 320; weights are drawn by CompressAI and read by
`jaxcodec.load`. Theirs is `compress` and `decompress`, ours from pixels to the bytes of a file and
back. `--only JointAutoregressiveHierarchicalPriors Elic2022Official` are the slow ones.

`--only Checkerboard Groups ChannelWise` puts these, which CompressAI has not, beside its joint
autoregressive codec; their weights are drawn here. The second has ELIC's contexts over the joint
model's transforms, the third its paper's sizes, 192 and 320.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

SYSTEMS = ("ScaleHyperprior", "MeanScaleHyperprior")
LARGER = ("Elic2022Official",)
CONTEXTS = ("Checkerboard", "Groups", "ChannelWise")
JOINT = "JointAutoregressiveHierarchicalPriors"


class Side:
  """A process that codes on demand."""

  def __init__(self, python: str, kind: str, *arguments: object):
    command = [python, "-m", "benchmarks.image_speed", "--serve", kind, *map(str, arguments)]
    self.process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    self.ready = self.read()

  def read(self) -> dict:
    line = self.process.stdout.readline()
    if not line:
      raise SystemExit("a side ended early: start it by hand with --serve to see why")
    return json.loads(line)

  def run(self, what: str) -> float:
    print(what, file=self.process.stdin, flush=True)
    return self.read()["seconds"]

  def close(self) -> None:
    self.process.stdin.close()
    self.process.wait()


def serve(steps: dict, **facts) -> None:
  """Answers each line of stdin with the seconds that its step takes; twice each before that."""
  for step in steps.values():
    step()
    step()
  print(json.dumps(facts), flush=True)
  for line in sys.stdin:
    start = time.perf_counter()
    steps[line.strip()]()
    print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def serve_theirs(system: str, picture: str, weights: str) -> None:
  import compressai.models
  import numpy as np
  import torch
  from PIL import Image

  torch.manual_seed(0)
  sizes = (192, 320) if system in LARGER else (128, 192)
  model = getattr(compressai.models, system)(*sizes).eval()
  torch.save(model.state_dict(), weights)
  model.update(force=True)
  x = np.asarray(Image.open(picture).convert("RGB"), np.float32) / 255
  x = torch.tensor(x.transpose(2, 0, 1)[None].copy())
  with torch.inference_mode():
    out = model.compress(x)
    steps = {
      "encode": lambda: model.compress(x),
      "decode": lambda: model.decompress(out["strings"], out["shape"]),
    }
    serve(steps, bytes=sum(len(part[0]) for part in out["strings"]))


def drawn(system: str):
  """A codec of `CONTEXTS` whose weights are drawn."""
  import jax
  import jax.numpy as jnp

  from jaxcodec.image.channelwise import ChannelWise
  from jaxcodec.image.checkerboard import Checkerboard
  from jaxcodec.image.elic import Elic
  from jaxcodec.image.latent_codec import latent_codec

  groups = Elic(
    filters=128, latents=192, groups=(12, 12, 24, 48, 96), transform="gdn", widths=(128, 64)
  )
  checkerboard = Checkerboard(filters=128, latents=192)
  of = {"Checkerboard": checkerboard, "Groups": groups, "ChannelWise": ChannelWise()}
  module = of[system]
  params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
  return latent_codec(module, params, name=system)


def serve_ours(picture: str, source: str) -> None:
  import numpy as np
  from PIL import Image

  import jaxcodec
  from jaxcodec import terminal

  terminal.look_for_no_absent_accelerator()
  codec = drawn(source) if source in CONTEXTS else jaxcodec.load(pathlib.Path(source))
  x = np.asarray(Image.open(picture).convert("RGB"), np.float32)[None] / 127.5 - 1
  data = jaxcodec.compress(codec, x)
  steps = {
    "encode": lambda: jaxcodec.compress(codec, x),
    "decode": lambda: jaxcodec.decompress(data, codec),
  }
  serve(steps, bytes=len(data))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("picture", nargs="*", help="of 768x512, for example")
  parser.add_argument("--peer", metavar="PYTHON")
  parser.add_argument("--runs", type=int, default=7)
  parser.add_argument("--only", nargs="*", default=SYSTEMS)
  parser.add_argument("--serve", choices=("ours", "theirs"))
  options = parser.parse_args()
  if options.serve:
    (serve_ours if options.serve == "ours" else serve_theirs)(*options.picture)
    return
  if options.peer is None or len(options.picture) != 1:
    parser.error("give one picture, and --peer")
  print("| system | step | ours, s | CompressAI, s | ratio | bytes, ours | bytes, theirs |")
  print("|---|---|---:|---:|---:|---:|---:|")
  for system in options.only:
    peer_system = JOINT if system in CONTEXTS else system
    with tempfile.TemporaryDirectory() as folder:
      weights = pathlib.Path(folder) / f"{peer_system}.pth"
      theirs = Side(options.peer, "theirs", peer_system, options.picture[0], weights)
      source = system if system in CONTEXTS else weights
      ours = Side(sys.executable, "ours", options.picture[0], source)
    for step in ("encode", "decode"):
      spent = [[], []]
      for _ in range(options.runs):
        for side, times in zip((ours, theirs), spent, strict=True):
          times.append(side.run(step))
      mine, peer = map(statistics.median, spent)
      sizes = f"{ours.ready['bytes']} | {theirs.ready['bytes']}"
      print(f"| {system} | {step} | {mine:.3f} | {peer:.3f} | {peer / mine:.2f} | {sizes} |")
    ours.close()
    theirs.close()


if __name__ == "__main__":
  main()
