"""Random `transformers.EncodecModel`s that behave like trained ones where a comparison needs it.

PyTorch's initial weights make latents that hardly vary, codebooks of zeros and a wave of unknown
size; then nearly any mistake would pass. Here every layer's output has unit spread on a test
signal, codebooks lie where the latents do, and the decoded wave peaks near 1.
"""

import contextlib

import torch
import transformers
from reference import entries, signal

CONFIGS = {
  "24khz": {},
  "32khz": {
    "audio_channels": 1,
    "sampling_rate": 32_000,
    "upsampling_ratios": [8, 5, 4, 4],
    "target_bandwidths": [2.2],
    "num_filters": 64,
    "codebook_size": 2048,
    "use_causal_conv": False,
    "use_conv_shortcut": False,
  },
  "48khz": {
    "audio_channels": 2,
    "sampling_rate": 48_000,
    "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
    "norm_type": "time_group_norm",
    "use_causal_conv": False,
    "normalize": True,
    "chunk_length_s": 1.0,
    "overlap": 0.01,
  },
}


@torch.no_grad()
def make_model(config_name: str, **overrides) -> transformers.EncodecModel:
  """A model in evaluation mode, the same on every call."""
  generator = torch.Generator().manual_seed(2)
  config = transformers.EncodecConfig(**(CONFIGS[config_name] | overrides))
  # Not `torch.manual_seed`: a test must not set the seed of those after it.
  with torch.random.fork_rng():
    torch.manual_seed(0)
    model = transformers.EncodecModel(config).eval()
  for name, value in model.named_parameters():
    if "norm.weight" in name:
      value.copy_(1 + 0.2 * torch.randn(value.shape, generator=generator))
    elif "norm.bias" in name or ".lstm.bias" in name:
      value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    elif ".lstm.weight" in name:
      value.mul_(2)  # A forget gate that does more than stand half open.
  x = signal(12, config.audio_channels, config.sampling_rate, config.sampling_rate, seed=1)
  x = torch.from_numpy(x).transpose(1, 2)
  scale = torch.ones(len(x), 1, 1)
  if config.normalize:
    scale = x.mean(dim=1, keepdim=True).square().mean(dim=2, keepdim=True).sqrt() + 1e-8
  with _unit_spread(model.encoder):
    z = model.encoder(x / scale)
  residual = z.transpose(1, 2).reshape(-1, config.hidden_size)
  for layer in model.quantizer.layers:
    layer.codebook.embed.copy_(entries(residual, config.codebook_size, generator))
    residual = residual - layer.codebook.decode(layer.codebook.encode(residual))
  with _unit_spread(model.decoder):
    y = model.decoder(z[:4]) * scale[:4]
  last = model.decoder.layers[-1]
  scaled = [last.norm.weight, last.norm.bias] if hasattr(last, "norm") else _gain_and_bias(last)
  for value in scaled:
    value.mul_(1 / y.abs().max())
  return model


def _gain_and_bias(layer):
  return [layer.conv.parametrizations.weight.original0, layer.conv.bias]


@contextlib.contextmanager
def _unit_spread(half):
  """While open, a weight-normed convolution that runs is rescaled to zero mean and unit spread."""

  def rescale(layer, inputs, y):
    gain, bias = _gain_and_bias(layer)
    mean, spread = y.mean(dim=(0, 2)), y.std(dim=(0, 2))
    # The gain of a transposed convolution belongs to the inputs: one factor for all outputs.
    if isinstance(layer.conv, torch.nn.ConvTranspose1d):
      spread = spread.mean().expand_as(spread)
      gain.div_(spread[0])
    else:
      gain.div_(spread[:, None, None])
    bias.copy_((bias - mean) / spread)
    return (y - mean[:, None]) / spread[:, None]

  handles = [
    layer.register_forward_hook(rescale)
    for layer in half.modules()
    if hasattr(layer, "norm_type") and layer.norm_type == "weight_norm"
  ]
  yield
  for handle in handles:
    handle.remove()
