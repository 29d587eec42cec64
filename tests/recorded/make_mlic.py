"""Records what the authors' MLIC++ gives at drawn weights: `mlic.npz` beside this.

Command: PYTHONPATH=tests:MLIC python tests/recorded/make_mlic.py [--out FILE]

MLIC is the folder `MLIC++` of JiangWeibeta/MLIC. Needs CompressAI 1.2.8, which lacks a function
that the code was written for and gets it here, timm and einops: use an environment of its own.
`weights` names the state dict's arrays and their shapes, which `drawn_weights.draw` fills in.
Arrays have channels last. The context modules' are of whatever stands there at the last slice.
"""

import argparse
import json
import pathlib

import compressai.ops
import numpy as np
import torch
from drawn_weights import draw_mlic

SIZES = {"N": 8, "M": 96, "slice_num": 3, "context_window": 5}


def last(x: torch.Tensor) -> np.ndarray:
  return x.detach().numpy().transpose(0, 2, 3, 1).astype(np.float32)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  here = pathlib.Path(__file__).parent
  parser.add_argument("--out", type=pathlib.Path, default=here / "mlic.npz")
  options = parser.parse_args()
  compressai.ops.ste_round = torch.round
  from models.mlicpp import MLICPlusPlus
  from utils.utils import Config

  model = MLICPlusPlus(Config(SIZES | {"act": torch.nn.GELU})).eval()
  weights = {name: x for name, x in model.named_parameters() if "gaussian" not in name}
  shapes = {name: list(x.shape) for name, x in weights.items()}
  drawn = {name: torch.tensor(x) for name, x in draw_mlic(shapes).items()}
  model.load_state_dict(model.state_dict() | drawn)
  rows, columns = np.mgrid[:64, :128]
  waves = np.sin(rows / 5 + columns / 9)[..., None] + np.cos(columns[..., None] / [3, 7, 11])
  noise = np.random.default_rng(0).integers(-20, 20, (64, 128, 3))
  x = np.clip(128 + 50 * waves + noise, 0, 255).astype(np.uint8)[None]
  found = {}

  def record(name):
    def keep(_, inputs, output):
      found[name] = last(output)
      for i, value in enumerate(inputs):
        found[f"{name}_in{i}"] = last(value)

    return keep

  for name in ("local_context", "global_intra_context", "global_inter_context", "channel_context"):
    getattr(model, name)[2].register_forward_hook(record(name))
  with torch.no_grad():
    pixels = torch.tensor(x.astype(np.float32) / 255).permute(0, 3, 1, 2)
    out = model(pixels)
    y = model.g_a(pixels)
  found["y"], found["x_hat"] = last(y), last(out["x_hat"])[:, ::3, 1::2]
  for name in ("y", "z"):
    found[f"likelihood_{name}"] = last(out["likelihoods"][f"{name}_likelihoods"])
  print(f"y has a deviation of {y.std():.2f}, the picture {out['x_hat'].std():.2f}")
  print({name: f"{value.std():.2f}" for name, value in found.items()})
  np.savez_compressed(options.out, picture=x, weights=np.array(json.dumps(shapes)), **found)
  print(f"{len(found)} arrays, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
  main()
