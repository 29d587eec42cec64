"""Random DAC models that behave like trained ones where a comparison needs it.

As in `encodec_reference`: every layer's output has unit spread on a test signal, and entries lie
where what is looked up does. All stages look into one space of 64 dimensions, so that what a stage
subtracts matters to those after it.
"""

import contextlib
import sys
import types
import warnings

import numpy as np
import torch
import transformers
from reference import Stage, entries, signal

CONFIGS = {
  "16khz": {"sampling_rate": 16_000, "downsampling_ratios": [2, 4, 5, 8], "n_codebooks": 12},
  "24khz": {"sampling_rate": 24_000, "downsampling_ratios": [2, 4, 5, 8], "n_codebooks": 32},
  "44khz": {"sampling_rate": 44_100, "downsampling_ratios": [2, 4, 8, 8], "n_codebooks": 9},
}
# An eighth of the width.
NARROW = {"encoder_hidden_size": 8, "decoder_hidden_size": 192}


def make_model(config_name: str, **overrides) -> transformers.DacModel:
  """A model in evaluation mode, the same on every call."""
  config = transformers.DacConfig(**(CONFIGS[config_name] | overrides))
  # Not `torch.manual_seed`: a test must not set the seed of those after it.
  with torch.random.fork_rng():
    torch.manual_seed(0)
    model = transformers.DacModel(config).eval()
  return _like_trained(model, config.sampling_rate, config.hop_length)


def make_original(**arguments):
  """A `dac.DAC` in evaluation mode, the same on every call."""
  model = draw_original(**arguments)
  return _like_trained(model, model.sample_rate, int(model.hop_length))


def draw_original(**arguments):
  """The same with the weights that a training starts from."""
  dac = import_original()
  # Its weight norm is the one that PyTorch deprecates.
  with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):
    torch.manual_seed(0)
    return dac.DAC(**arguments).eval()


def import_original():
  """The package `dac`. What it imports imports torchaudio for effects that nothing here uses, and
  torchaudio cannot be imported beside a PyTorch that was built otherwise."""
  if "dac" not in sys.modules:
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    try:
      with warnings.catch_warnings(action="ignore"):
        import dac  # noqa: F401
    finally:
      del sys.modules["torchaudio"]
  return sys.modules["dac"]


@torch.no_grad()
def _like_trained(model, rate: int, hop: int):
  generator = torch.Generator().manual_seed(2)
  for name, value in model.named_parameters():
    if name.endswith("alpha"):
      value.copy_(torch.exp(0.3 * torch.randn(value.shape, generator=generator)))
  length = rate // hop * hop
  x = torch.from_numpy(signal(4, 1, length, rate, seed=1)).transpose(1, 2)
  with _unit_spread(model.encoder):
    z = model.encoder(x)
  quantizer = model.quantizer
  residual = z.transpose(1, 2).reshape(-1, z.shape[1])
  dimensions = min(64, z.shape[1])
  space = torch.linalg.qr(torch.randn(z.shape[1], dimensions, generator=generator)).Q
  total = torch.zeros_like(residual)
  for stage in quantizer.quantizers:
    width = stage.codebook.weight.shape[1]
    basis = space @ torch.linalg.qr(torch.randn(dimensions, width, generator=generator)).Q
    mean, stretch = residual.mean(dim=0), 0.5 + torch.rand(width, generator=generator)
    _set_weight(stage.in_proj, (basis * stretch).T[..., None])
    _set_weight(stage.out_proj, (basis / stretch)[..., None])
    stage.in_proj.bias.copy_(-(mean @ basis) * stretch)
    stage.out_proj.bias.copy_(0.5 * mean)
    projected = stage.in_proj(residual.T[None])[0].T
    stage.codebook.weight.copy_(entries(projected, len(stage.codebook.weight), generator))
    added = stage(residual.T[None])[0][0].T
    residual, total = residual - added, total + added
  with _unit_spread(model.decoder):
    model.decoder(total.reshape(4, -1, z.shape[1])[:2].transpose(1, 2))
  return model


@torch.no_grad()
def stages_of(model) -> list[Stage]:
  """The quantizer in float64; entries are compared by angle and subtracted as they are."""
  return [_stage(stage) for stage in model.quantizer.quantizers]


def _stage(stage) -> Stage:
  kernel, bias, out_kernel, out_bias = (
    value.detach().double().numpy()
    for layer in (stage.in_proj, stage.out_proj)
    for value in (layer.weight[..., 0], layer.bias)
  )
  codebook = stage.codebook.weight.detach().double().numpy()
  unit = codebook / np.linalg.norm(codebook, axis=-1, keepdims=True)

  def distances(residual):
    z = kernel @ residual + bias
    return np.sum((z / np.linalg.norm(z) - unit) ** 2, axis=-1)

  return Stage(distances, lambda code: out_kernel @ codebook[code] + out_bias)


def _set_weight(layer, weight) -> None:
  if not hasattr(layer, "weight_g"):
    layer.weight.copy_(weight)
    return
  layer.weight_v.copy_(weight)
  layer.weight_g.copy_(weight.square().sum(dim=(1, 2), keepdim=True).sqrt())


@contextlib.contextmanager
def _unit_spread(half):
  """While open, a convolution that runs is rescaled to outputs of zero mean and unit spread.

  What a residual unit adds, the output of a convolution of one tap, gets a third of that: at unit
  spread the network itself would make four times as much of each layer's rounding.
  """

  def rescale(layer, inputs, y):
    mean, spread = y.mean(dim=(0, 2)), y.std(dim=(0, 2))
    if layer.kernel_size == (1,):
      spread = 3 * spread
    transposed = isinstance(layer, torch.nn.ConvTranspose1d)
    normed = hasattr(layer, "weight_g")
    if transposed and normed:  # The gain belongs to the inputs: one factor for all outputs.
      spread = spread.mean().expand_as(spread)
      layer.weight_g.div_(spread[0])
    else:
      gain = layer.weight_g if normed else layer.weight
      gain.div_(spread[:, None] if transposed else spread[:, None, None])
    layer.bias.copy_((layer.bias - mean) / spread)
    return (y - mean[:, None]) / spread[:, None]

  convolutions = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)
  handles = [
    layer.register_forward_hook(rescale)
    for layer in half.modules()
    if isinstance(layer, convolutions)
  ]
  yield
  for handle in handles:
    handle.remove()
