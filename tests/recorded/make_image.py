"""Records what CompressAI's picture codecs give at drawn weights: `image.npz` beside this.

Command: PYTHONPATH=tests python tests/recorded/make_image.py [--out FILE]

Needs CompressAI 1.2.8, which pins other packages than the library does: use an environment of its
own. Keys are CASE/ARRAY; `weights` names the state dict's arrays and their shapes, which
`drawn_weights.draw` fills in. Arrays have channels last. The channel-wise codec is not one of
CompressAI: it is written down here on CompressAI's layers, from its paper's figures.
"""

import argparse
import json
import math
import pathlib

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.latent_codecs import (
  CheckerboardLatentCodec,
  GaussianConditionalLatentCodec,
  HyperLatentCodec,
  HyperpriorLatentCodec,
)
from compressai.layers import CheckerboardMaskedConv2d
from compressai.models import (
  Cheng2020Anchor,
  Cheng2020AnchorCheckerboard,
  Cheng2020Attention,
  Elic2022Official,
  FactorizedPrior,
  FactorizedPriorReLU,
  JointAutoregressiveHierarchicalPriors,
  MeanScaleHyperprior,
  ScaleHyperprior,
)
from compressai.models.utils import conv, deconv
from compressai.ops import quantize_ste
from drawn_weights import draw, is_buffer
from torch import nn

N, M = 8, 12


class Checkerboard(JointAutoregressiveHierarchicalPriors):
  """The joint model with a checkerboard for its raster scan, under the joint model's names."""

  def __init__(self):
    super().__init__(N, M)
    self.context_prediction = CheckerboardMaskedConv2d(M, 2 * M, kernel_size=5, padding=2, stride=1)

  def forward(self, x):
    checkerboard = CheckerboardLatentCodec(
      latent_codec={"y": GaussianConditionalLatentCodec(quantizer="ste")},
      entropy_parameters=self.entropy_parameters,
      context_prediction=self.context_prediction,
    )
    hyper = HyperLatentCodec(self.entropy_bottleneck, self.h_a, self.h_s, quantizer="ste")
    codec = HyperpriorLatentCodec({"y": checkerboard, "hyper": hyper}).eval()
    out = codec(self.g_a(x))
    return {"x_hat": self.g_s(out["y_hat"]), "likelihoods": out["likelihoods"]}


class ChannelWise(nn.Module):
  """Three slices of four channels, of which a slice sees the first two."""

  def __init__(self, slices=3, support=2, widths=(10, 9)):
    super().__init__()
    base, middle, size = FactorizedPrior(N, M), (N + M) // 2, M // slices
    self.g_a, self.g_s = base.g_a, base.g_s
    self.h_a = nn.Sequential(
      conv(M, M, kernel_size=3, stride=1), nn.ReLU(), conv(M, middle), nn.ReLU(), conv(middle, N)
    )
    self.h_a[4].bias = None
    self.entropy_bottleneck = EntropyBottleneck(N)

    def synthesis():
      up = [deconv(N, N), nn.ReLU(), deconv(N, middle), nn.ReLU()]
      return nn.Sequential(*up, conv(middle, M, kernel_size=3, stride=1))

    def of_slice(before):
      one, two = widths
      layers = [conv(before, one, stride=1), nn.ReLU(), conv(one, two, stride=1), nn.ReLU()]
      return nn.Sequential(*layers, conv(two, size, kernel_size=3, stride=1))

    self.h_means, self.h_scales = synthesis(), synthesis()
    seen = [M + size * min(i, support) for i in range(slices)]
    self.means = nn.ModuleList([of_slice(n) for n in seen])
    self.scales = nn.ModuleList([of_slice(n) for n in seen])
    self.residuals = nn.ModuleList([of_slice(n + size) for n in seen])
    self.slices, self.support = slices, support

  def forward(self, x):
    y = self.g_a(x)
    z = self.h_a(y)
    _, of_z = self.entropy_bottleneck(z)
    medians = self.entropy_bottleneck._get_medians()
    z_hat = quantize_ste(z - medians) + medians
    side_means, side_scales = self.h_means(z_hat), self.h_scales(z_hat)
    conditional, done, likelihoods = GaussianConditional(None).eval(), [], []
    for i, part in enumerate(y.chunk(self.slices, 1)):
      before = done[: self.support]
      mean = self.means[i](torch.cat([side_means, *before], 1))
      index = self.scales[i](torch.cat([side_scales, *before], 1)).clamp(0, 63)
      scale = torch.exp(math.log(0.11) + index * math.log(256 / 0.11) / 63)
      _, likelihood = conditional(part, scale, means=mean)
      rounded = torch.round(part - mean) + mean
      residual = self.residuals[i](torch.cat([side_means, *before, rounded], 1))
      done.append(rounded + 0.5 * torch.tanh(residual))
      likelihoods.append(likelihood)
    y_hat = torch.cat(done, 1)
    return {
      "x_hat": self.g_s(y_hat),
      "likelihoods": {"y": torch.cat(likelihoods, 1), "z": of_z},
    }


CASES = {
  "factorized": lambda: FactorizedPrior(N, M),
  "scale": lambda: ScaleHyperprior(N, M),
  "mean_scale": lambda: MeanScaleHyperprior(N, M),
  "autoregressive": lambda: JointAutoregressiveHierarchicalPriors(N, M),
  "checkerboard": Checkerboard,
  "residual_checkerboard": lambda: Cheng2020AnchorCheckerboard(N),
  "channelwise": ChannelWise,
  "factorized_relu": lambda: FactorizedPriorReLU(N, M),
  "residual": lambda: Cheng2020Anchor(N),
  "attention": lambda: Cheng2020Attention(N),
  "elic": lambda: Elic2022Official(N, M, [2, 4, 6]),
}


def last(x: torch.Tensor) -> np.ndarray:
  return x.detach().numpy().transpose(0, 2, 3, 1).copy()


def record(model, x: np.ndarray) -> dict[str, np.ndarray]:
  state = model.state_dict()
  shapes = {name: list(value.shape) for name, value in state.items()}
  drawn = {n: torch.tensor(a) for n, a in draw(shapes).items() if not is_buffer(n)}
  model.load_state_dict(state | drawn)
  model.eval()
  with torch.no_grad():
    pixels = torch.tensor(x.astype(np.float32) / 255).permute(0, 3, 1, 2)
    out = model(pixels)
    y = model.g_a(pixels)
  found = {f"likelihood_{name}": last(value) for name, value in out["likelihoods"].items()}
  spread = float(y.std())
  print(f"  y has a deviation of {spread:.2f}, the picture {float(out['x_hat'].std()):.2f}")
  # Of the picture every third row and second column: the file stays small.
  found |= {"y": last(y), "x_hat": last(out["x_hat"])[:, ::3, 1::2]}
  return found | {"weights": np.array(json.dumps(shapes))}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  here = pathlib.Path(__file__).parent
  parser.add_argument("--out", type=pathlib.Path, default=here / "image.npz")
  options = parser.parse_args()
  rows, columns = np.mgrid[:64, :128]
  waves = np.sin(rows / 5 + columns / 9)[..., None] + np.cos(columns[..., None] / [3, 7, 11])
  noise = np.random.default_rng(0).integers(-20, 20, (64, 128, 3))
  x = np.clip(128 + 50 * waves + noise, 0, 255).astype(np.uint8)[None]
  arrays = {"x": x}
  for name, make in CASES.items():
    print(name)
    arrays |= {f"{name}/{key}": value for key, value in record(make(), x).items()}
  np.savez_compressed(options.out, **arrays)
  print(f"{len(arrays)} arrays, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
  main()
