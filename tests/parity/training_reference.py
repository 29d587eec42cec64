"""Discriminators and losses in PyTorch as the published programs have them, for sound [B, C, T].

Sources: encodec/msstftd.py; HiFi-GAN's models.py; MelGAN's mel2wav/modules.py;
dac/model/discriminator.py and dac/nn/loss.py; audiocraft's losses; taming-transformers'
modules/discriminator/model.py. Each gives a list of (logits, activations).
"""

import itertools
import warnings

import numpy as np
import torch
import torch.nn.functional as TF
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from transformers.audio_utils import mel_filter_bank


def spectrum(x, window: int, *, center: bool, normalized: bool):
  hann = torch.hann_window(window, device=x.device)
  found = torch.stft(
    x.reshape(-1, x.shape[-1]), window, window // 4, window, hann, center, return_complex=True
  )
  found = found / hann.square().sum().sqrt() if normalized else found
  return found.reshape(*x.shape[:2], *found.shape[1:])


class StftScale(nn.Module):
  def __init__(self, window: int, filters: int, channels: int):
    super().__init__()
    self.window = window
    layers = [nn.Conv2d(2 * channels, filters, (3, 9), padding=(1, 4))]
    layers += [
      weight_norm(
        nn.Conv2d(filters, filters, (3, 9), (1, 2), dilation=(dilation, 1), padding=(dilation, 4))
      )
      for dilation in (1, 2, 4)
    ]
    layers.append(weight_norm(nn.Conv2d(filters, filters, (3, 3), padding=(1, 1))))
    self.layers = nn.ModuleList(layers)
    self.head = weight_norm(nn.Conv2d(filters, 1, (3, 3), padding=(1, 1)))

  def forward(self, x):
    found = spectrum(x, self.window, center=False, normalized=True)
    y = torch.cat([found.real, found.imag], dim=1).transpose(2, 3)
    features = []
    for layer in self.layers:
      y = TF.leaky_relu(layer(y), 0.2)
      features.append(y)
    return self.head(y), features


class Period(nn.Module):
  def __init__(self, period: int, widths, always_pad: bool):
    super().__init__()
    self.period, self.always_pad = period, always_pad
    ins = (1, *widths[:-1])
    self.layers = nn.ModuleList(
      weight_norm(nn.Conv2d(a, b, (5, 1), (1 if i == len(widths) - 1 else 3, 1), padding=(2, 0)))
      for i, (a, b) in enumerate(zip(ins, widths, strict=True))
    )
    self.head = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

  def forward(self, x):
    length = x.shape[-1]
    if self.always_pad or length % self.period:
      x = TF.pad(x, (0, self.period - length % self.period), mode="reflect")
    y = x.reshape(*x.shape[:2], -1, self.period)
    features = []
    for layer in self.layers:
      y = TF.leaky_relu(layer(y), 0.1)
      features.append(y)
    return self.head(y), features


class WaveScale(nn.Module):
  def __init__(self, width: int, strides, times: int):
    super().__init__()
    self.times = times
    layers = [nn.Sequential(nn.ReflectionPad1d(7), weight_norm(nn.Conv1d(1, width, 15)))]
    for stride in strides:
      wider = min(width * 4, 1024)
      convolution = nn.Conv1d(
        width, wider, 10 * stride + 1, stride, padding=5 * stride, groups=max(1, width // 4)
      )
      layers.append(weight_norm(convolution))
      width = wider
    wider = min(width * 2, 1024)
    layers.append(weight_norm(nn.Conv1d(width, wider, 5, padding=2)))
    self.layers = nn.ModuleList(layers)
    self.head = weight_norm(nn.Conv1d(wider, 1, 3, padding=1))

  def forward(self, x):
    for _ in range(self.times):
      x = TF.avg_pool1d(x, 4, 2, 1, count_include_pad=False)
    features = []
    for layer in self.layers:
      x = TF.leaky_relu(layer(x), 0.2)
      features.append(x)
    return self.head(x), features


class GroupedScale(nn.Module):
  def __init__(self, width: int, times: int):
    super().__init__()
    self.times, w = times, width
    shapes = (
      (1, w, 15, 1, 1),
      (w, w, 41, 2, 4),
      (w, 2 * w, 41, 2, 16),
      (2 * w, 4 * w, 41, 4, 16),
      (4 * w, 8 * w, 41, 4, 16),
      (8 * w, 8 * w, 41, 1, 16),
      (8 * w, 8 * w, 5, 1, 1),
    )
    self.layers = nn.ModuleList(
      weight_norm(nn.Conv1d(ins, outs, taps, stride, taps // 2, groups=groups))
      for ins, outs, taps, stride, groups in shapes
    )
    self.head = weight_norm(nn.Conv1d(8 * w, 1, 3, padding=1))

  def forward(self, x):
    for _ in range(self.times):
      x = TF.avg_pool1d(x, 4, 2, 2)
    features = []
    for layer in self.layers:
      x = TF.leaky_relu(layer(x), 0.1)
      features.append(x)
    return self.head(x), features


class BandScale(nn.Module):
  def __init__(self, window: int, bands, filters: int):
    super().__init__()
    self.window = window
    bins = window // 2 + 1
    edges = [0, *(int(share * bins) for share in bands)]
    self.bands = list(itertools.pairwise(edges))
    shapes = [(2, (3, 9), (1, 1))] + [(filters, (3, 9), (1, 2))] * 3 + [(filters, (3, 3), (1, 1))]

    def stack():
      return nn.ModuleList(
        weight_norm(nn.Conv2d(i, filters, kernel, stride, padding=(1, kernel[1] // 2)))
        for i, kernel, stride in shapes
      )

    self.stacks = nn.ModuleList(stack() for _ in self.bands)
    self.head = weight_norm(nn.Conv2d(filters, 1, (3, 3), padding=(1, 1)))

  def forward(self, x):
    window, hop = self.window, self.window // 4
    right = -(-x.shape[-1] // hop) * hop - x.shape[-1]
    side = (window - hop) // 2
    x = TF.pad(x, (side, side + right), mode="reflect")
    found = spectrum(x, window, center=True, normalized=False)[..., 2:-2]
    y = torch.cat([found.real, found.imag], dim=1).transpose(2, 3)
    outs, features = [], []
    for (start, end), stack in zip(self.bands, self.stacks, strict=True):
      z = y[..., start:end]
      for layer in stack:
        z = TF.leaky_relu(layer(z), 0.1)
        features.append(z)
      outs.append(z)
    return self.head(torch.cat(outs, dim=-1)), features


class Patches(nn.Module):
  def __init__(self, width: int, layers: int):
    super().__init__()
    parts, before = [nn.Sequential(nn.Conv2d(3, width, 4, 2, 1))], width
    for i in range(1, layers + 1):
      after = width * min(2**i, 8)
      stride = 2 if i < layers else 1
      convolution = nn.Conv2d(before, after, 4, stride, 1, bias=False)
      parts.append(nn.Sequential(convolution, nn.BatchNorm2d(after)))
      before = after
    self.layers = nn.ModuleList(parts)
    self.head = nn.Conv2d(before, 1, 4, 1, 1)

  def forward(self, x):
    features = []
    for layer in self.layers:
      x = TF.leaky_relu(layer(x), 0.2)
      features.append(x)
    return self.head(x), features


def mel_loss(x, y, rate: int, *, dac: bool):
  """DAC's loss of mel spectra, or audiocraft's, over a few of their scales."""
  total = torch.zeros(())
  for window, bands in ((64, 10), (512, 80)) if dac else ((64, 64), (1024, 64)):
    scale = "slaney" if dac else "htk"
    with warnings.catch_warnings():
      # 64 bands of 33 bins: some hold none, as in audiocraft.
      warnings.simplefilter("ignore", UserWarning)
      filters = mel_filter_bank(
        window // 2 + 1,
        bands,
        0.0 if dac else 64.0,
        rate / 2,
        rate,
        norm="slaney" if dac else None,
        mel_scale=scale,
      )
    filters = torch.from_numpy(filters).float()
    mels = []
    for wave in (x, y):
      if not dac:
        side = (window - window // 4) // 2
        wave = TF.pad(wave, (side, side), mode="reflect")
      found = spectrum(wave, window, center=dac, normalized=not dac).abs()
      mels.append(found.transpose(2, 3) @ filters)
    if dac:
      logs = [mel.clamp(min=1e-5).log10() for mel in mels]
      total = total + (logs[0] - logs[1]).abs().mean()
    else:
      logs = [(1e-5 + mel).log10() for mel in mels]
      total = total + (mels[0] - mels[1]).abs().mean() + TF.mse_loss(*logs)
  return total if dac else total / 4


def copied(torch_layers, params, names):
  """Gives each layer the weights of `params[name]`, random ones of ours."""
  for layer, name in zip(torch_layers, names, strict=True):
    ours = {key: np.array(value) for key, value in params[name].items()}
    with torch.no_grad():
      layer.bias.copy_(torch.from_numpy(ours["bias"]))
      if "kernel" in ours:
        layer.weight.copy_(_outputs_first(ours["kernel"]))
        continue
      weight = layer.parametrizations.weight
      weight.original1.copy_(_outputs_first(ours["direction"]))
      gain = torch.from_numpy(ours["gain"])
      weight.original0.copy_(gain.reshape(weight.original0.shape))


def _outputs_first(kernel):
  return torch.from_numpy(np.moveaxis(kernel, (-1, -2), (0, 1)).copy())
