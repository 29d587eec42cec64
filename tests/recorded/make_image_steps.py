"""Records a training step of CompressAI's hyperpriors at drawn weights: `image_steps.npz`.

Command: PYTHONPATH=tests python tests/recorded/make_image_steps.py [--out FILE]

Needs CompressAI 1.2.8, which pins other packages than the library does: use an environment of its
own. Keys are CASE/ARRAY: the loss and the auxiliary loss, `weights` as in `make_image.py`, and
`to/NAME`, the gradient of their sum to each array of the state dict, reckoned in float64: in
float32 CompressAI's own is up to 2e-4 from it. The noise is `draw_signal`'s.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from compressai.entropy_models import EntropyModel
from compressai.models import MeanScaleHyperprior, ScaleHyperprior
from drawn_weights import draw, draw_signal, is_buffer

N, M, LAMBDA = 8, 12, 1e-4
CASES = {"scale": ScaleHyperprior, "mean_scale": MeanScaleHyperprior}


def first(x: np.ndarray) -> torch.Tensor:
  return torch.tensor(x).double().permute(0, 3, 1, 2).contiguous()


def record(model) -> dict[str, np.ndarray]:
  state = model.state_dict()
  shapes = {name: list(value.shape) for name, value in state.items()}
  drawn = {n: torch.tensor(a).double() for n, a in draw(shapes).items() if not is_buffer(n)}
  model.load_state_dict(state | drawn)
  model.train()
  pixels = first(draw_signal(1, 2, 64, 64, 3) + 0.5)
  noises = [first(draw_signal(2, 2, 1, 1, N)), first(draw_signal(3, 2, 4, 4, M))]
  # The side information's rows are its channels.
  noises[0] = noises[0].permute(1, 2, 3, 0).reshape(N, 1, -1)

  def noisy(_, inputs, mode, means=None):
    if mode == "noise":
      return inputs + noises.pop(0)
    found = torch.round(inputs if means is None else inputs - means)
    return found if means is None else found + means

  EntropyModel.quantize = noisy
  out = model(pixels)
  bits = sum(-part.log2().sum() for part in out["likelihoods"].values())
  error = (out["x_hat"] - pixels).square().mean()
  loss = bits / pixels[:, 0].numel() + LAMBDA * 255**2 * error
  auxiliary = model.aux_loss()
  (loss + auxiliary).backward()
  loss, auxiliary = loss.detach().numpy(), auxiliary.detach().numpy()
  print(f"  loss {loss:.4f}, auxiliary {auxiliary:.2f}")
  found = {
    f"to/{name}": part.grad.numpy().astype(np.float32) for name, part in model.named_parameters()
  }
  found |= {"loss": loss, "auxiliary": auxiliary}
  return found | {"weights": np.array(json.dumps(shapes))}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  here = pathlib.Path(__file__).parent
  parser.add_argument("--out", type=pathlib.Path, default=here / "image_steps.npz")
  options = parser.parse_args()
  torch.set_default_dtype(torch.float64)
  arrays = {}
  for name, make in CASES.items():
    print(name)
    arrays |= {f"{name}/{key}": value for key, value in record(make(N, M)).items()}
  np.savez_compressed(options.out, **arrays)
  print(f"{len(arrays)} arrays, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
  main()
