"""Records what CompressAI's entropy models give: `rate.npz` beside this.

Command: python tests/recorded/make_rate.py [--out FILE]

Needs CompressAI 1.2.8, which pins other packages than the library does: use an environment of its
own. Keys are CASE/ARRAY; the noise that its training adds is recorded as the noisy output.
"""

import argparse
import pathlib

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional

RNG = np.random.default_rng(0)


def draw(*shape, scale=1.0):
  return (scale * RNG.normal(size=shape)).astype(np.float32)


def numpy(x):
  return x.detach().numpy().copy()


def last(x):
  """[B, C, T] to [B, T, C]."""
  return numpy(x).swapaxes(1, 2)


def entropy_case() -> dict[str, np.ndarray]:
  module = EntropyBottleneck(4)
  for part in module.factors:
    part.data.copy_(0.3 * torch.randn(part.shape))
  for part in module.matrices:
    part.data.add_(0.3 * torch.randn(part.shape))
  module.quantiles.data[:, :, 1] = 0.4 * torch.randn(4, 1)
  found = {}
  for i, part in enumerate(module.matrices):
    found[f"matrix_{i}"] = numpy(part)
  for name, parts in (("bias", module.biases), ("factor", module.factors)):
    found |= {f"{name}_{i}": numpy(part)[..., 0] for i, part in enumerate(parts)}
  found["quantiles"] = numpy(module.quantiles)[:, 0]
  z, weight = draw(2, 4, 7, scale=4), draw(2, 4, 7)
  for mode in ("rounded", "noisy"):
    module.train(mode == "noisy")
    x = torch.tensor(z, requires_grad=True)
    out, likelihood = module(x)
    bits = -torch.log2(likelihood)
    params = [*module.matrices, *module.biases, *module.factors]
    gradients = torch.autograd.grad((bits * torch.tensor(weight)).sum(), params)
    names = [f"matrix_{i}" for i in range(5)] + [f"bias_{i}" for i in range(5)]
    names += [f"factor_{i}" for i in range(4)]
    found |= {f"z_q_{mode}": last(out), f"likelihood_{mode}": last(likelihood)}
    for name, gradient in zip(names, gradients, strict=True):
      gradient = numpy(gradient)
      found[f"to_{name}_{mode}"] = gradient if "matrix" in name else gradient[..., 0]
  aux = module.loss()
  (to_quantiles,) = torch.autograd.grad(aux, module.quantiles)
  found |= {"aux": numpy(aux), "to_quantiles": numpy(to_quantiles)[:, 0]}
  return found | {"z": z.swapaxes(1, 2), "weight": weight.swapaxes(1, 2)}


def gaussian_case() -> dict[str, np.ndarray]:
  module = GaussianConditional(None)
  z, weight = draw(2, 4, 7, scale=4), draw(2, 4, 7)
  scales, means = np.abs(draw(2, 4, 7)) + 0.02, draw(2, 4, 7)
  found = {"z": z, "weight": weight, "scales": scales, "means": means}
  found = {name: x.swapaxes(1, 2) for name, x in found.items()}
  for mode in ("rounded", "noisy"):
    module.train(mode == "noisy")
    arrays = [torch.tensor(x, requires_grad=True) for x in (z, scales, means)]
    out, likelihood = module(*arrays)
    bits = -torch.log2(likelihood)
    to_scales, to_means = torch.autograd.grad((bits * torch.tensor(weight)).sum(), arrays[1:])
    found |= {f"z_q_{mode}": last(out), f"likelihood_{mode}": last(likelihood)}
    found |= {f"to_scales_{mode}": last(to_scales), f"to_means_{mode}": last(to_means)}
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  here = pathlib.Path(__file__).parent
  parser.add_argument("--out", type=pathlib.Path, default=here / "rate.npz")
  options = parser.parse_args()
  torch.manual_seed(0)
  cases = {"entropy": entropy_case(), "gaussian": gaussian_case()}
  arrays = {f"{case}/{name}": x for case, found in cases.items() for name, x in found.items()}
  np.savez_compressed(options.out, **arrays)
  print(f"{len(arrays)} arrays, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
  main()
