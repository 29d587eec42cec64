"""A random `transformers.MimiModel` that behaves like a trained one where a comparison needs it.

As in `encodec_reference`: layers of unit spread, codebooks where the latents lie, a wave of peak 1.
The Transformers' branches count as much as what they are added to, so that their errors would show.
"""

import contextlib

import torch
import transformers
from reference import entries, signal


@torch.no_grad()
def make_model(**overrides) -> transformers.MimiModel:
  """A model in evaluation mode, the same on every call."""
  generator = torch.Generator().manual_seed(2)
  config = transformers.MimiConfig(**overrides)
  # Not `torch.manual_seed`: a test must not set the seed of those after it.
  with torch.random.fork_rng():
    torch.manual_seed(0)
    model = transformers.MimiModel(config).eval()
  for name, value in model.named_parameters():
    if "layer_scale" in name:
      value.copy_(0.3 + 0.1 * torch.randn(value.shape, generator=generator))
    elif "layernorm.weight" in name:
      value.copy_(1 + 0.2 * torch.randn(value.shape, generator=generator))
    elif "layernorm.bias" in name:
      value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    elif "_transformer" in name:
      value.copy_(torch.randn(value.shape, generator=generator) * value.shape[1] ** -0.5)
  x = torch.from_numpy(signal(16, 1, 2 * config.sampling_rate, config.sampling_rate, seed=1))
  with _unit_spread(model):
    z = model.encoder(x.transpose(1, 2)).latents
  for part in (
    model.quantizer.semantic_residual_vector_quantizer,
    model.quantizer.acoustic_residual_vector_quantizer,
  ):
    residual = part.input_proj(z).transpose(1, 2).reshape(-1, config.codebook_dim)
    for layer in part.layers:
      book = layer.codebook
      usage = 0.5 + 2 * torch.rand(book.cluster_usage.shape, generator=generator)
      book.cluster_usage.copy_(usage)
      book.embed_sum.copy_(entries(residual, config.codebook_size, generator) * usage[:, None])
      residual = residual - book.decode(book.encode(residual))
  with _unit_spread(model):
    y = model.decoder(z[:2]).audio_values
  last = model.decoder.decoder_seanet.layers[-1].conv
  last.weight.div_(y.abs().max())
  last.bias.div_(y.abs().max())
  return model


@contextlib.contextmanager
def _unit_spread(model):
  """While open, a convolution with a bias that runs is rescaled to zero mean and unit spread."""

  def rescale(layer, inputs, y):
    mean, spread = y.mean(dim=(0, 2)), y.std(dim=(0, 2))
    transposed = isinstance(layer, torch.nn.ConvTranspose1d)
    layer.weight.div_(spread[None, :, None] if transposed else spread[:, None, None])
    layer.bias.copy_((layer.bias - mean) / spread)
    return (y - mean[:, None]) / spread[:, None]

  kinds = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)
  handles = [
    layer.register_forward_hook(rescale)
    for layer in model.modules()
    if isinstance(layer, kinds) and layer.bias is not None
  ]
  yield
  for handle in handles:
    handle.remove()
