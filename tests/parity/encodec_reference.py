"""Random `transformers.EncodecModel`s whose codebooks lie where the latents do."""

import numpy as np
import torch
import transformers

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


def signal(batch: int, channels: int, length: int, seed: int = 0) -> np.ndarray:
  """Modulated tones in noise of peak 1: float32 [batch, length, channels]."""
  rng = np.random.default_rng(seed)
  time = np.arange(length)[None, :, None] / 16_000
  pitch = rng.uniform(80, 3000, (batch, 1, channels))
  wave = np.sin(2 * np.pi * pitch * time * (1 + 0.1 * np.sin(5 * time)))
  wave = wave * (0.2 + np.abs(np.sin(7 * time))) + 0.3 * rng.normal(size=(batch, length, channels))
  return (wave / np.abs(wave).max()).astype(np.float32)


@torch.no_grad()
def make_model(config_name: str, **overrides) -> transformers.EncodecModel:
  """A model in evaluation mode; every codebook holds residuals of real latents, so most entries win."""
  torch.manual_seed(0)
  config = transformers.EncodecConfig(**(CONFIGS[config_name] | overrides))
  model = transformers.EncodecModel(config).eval()
  seconds = 8 if config.codebook_size <= 1024 else 24
  rate, channels = config.sampling_rate, config.audio_channels
  x = signal(4, channels, rate, seed=1)
  for name, value in model.named_parameters():
    if "norm.weight" in name:
      value.copy_(1 + 0.2 * torch.randn_like(value))
    elif name.endswith("bias"):
      value.copy_(0.1 * torch.randn_like(value))
  latents = []
  for i in range(seconds):
    x = torch.from_numpy(signal(4, channels, rate, seed=1 + i)).transpose(1, 2)
    latents.append(model.encoder(x).transpose(1, 2).reshape(-1, config.hidden_size))
  residual = torch.cat(latents)
  # Far latents would make all of a codebook's entries compete for a few; unit spread keeps 1e-5 small.
  generator = torch.Generator().manual_seed(2)
  for layer in model.quantizer.layers:
    rows = torch.randperm(len(residual), generator=generator)[: config.codebook_size]
    layer.codebook.embed.copy_(residual[rows])
    residual = (
      residual - layer.decode(layer.encode(residual[None].transpose(1, 2))).transpose(1, 2)[0]
    )
  return model
