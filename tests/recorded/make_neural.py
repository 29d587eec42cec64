"""Records what the authors' programs of neural sound codecs give: `neural.npz` beside this.

Command: python tests/recorded/make_neural.py --sources DIR [--only CASE] [--out FILE]

DIR holds checkouts of github.com/yangdongchao/AcademiCodec, jishengpeng/WavTokenizer,
jishengpeng/Languagecodec and mubtasimahasan/DM-Codec; besides, torch and einops. Weights are not
recorded but drawn anew (`drawn_weights.draw_sound`) from the names and shapes that are, and so are
signals. Keys are CASE/ARRAY. Widths that a program fixes are made small in its text.
"""

import argparse
import importlib
import json
import math
import pathlib
import sys
import types

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from drawn_weights import draw_signal, draw_sound  # noqa: E402


def run_source(path: pathlib.Path, name: str, *changes: tuple[str, str]) -> types.ModuleType:
  """A module of the source at `path`, each text of `changes` replaced."""
  text = path.read_text()
  for old, new in changes:
    assert old in text, f"{path} holds no {old!r}"
    text = text.replace(old, new)
  module = types.ModuleType(name)
  sys.modules[name] = module
  exec(compile(text, str(path), "exec"), module.__dict__)
  return module


def with_drawn_weights(modules: dict[str, torch.nn.Module], seed: int) -> str:
  """The names and shapes of all weights, as JSON; the weights are drawn."""
  shapes = {
    f"{part}.{name}": list(value.shape)
    for part, module in modules.items()
    for name, value in module.state_dict().items()
  }
  drawn = draw_sound(shapes, seed)
  for part, module in modules.items():
    state = {
      name.removeprefix(f"{part}."): torch.from_numpy(array)
      for name, array in drawn.items()
      if name.startswith(f"{part}.")
    }
    module.load_state_dict(state)
    module.eval()
  return json.dumps(shapes)


def hifi_codec(sources: pathlib.Path) -> dict[str, np.ndarray]:
  """Two rows of 8 frames, at a quarter of the published widths."""
  utils = types.ModuleType("academicodec.utils")
  utils.get_padding = lambda kernel, dilation: (kernel * dilation - dilation) // 2
  utils.init_weights = lambda module: None
  sys.modules["academicodec.utils"] = utils
  program = run_source(
    sources / "AcademiCodec/academicodec/models/hificodec/models.py",
    "hificodec",
    ("512", "128"),
    ("Conv1d(1, 32, 7", "Conv1d(1, 8, 7"),
    ("32 * (2**", "8 * (2**"),
  )
  config = {
    "resblock": "1",
    "sampling_rate": 24_000,
    "upsample_rates": [8, 5, 4, 2],
    "upsample_kernel_sizes": [16, 11, 8, 4],
    "upsample_initial_channel": 128,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5]] * 3,
    "n_code_groups": 2,
    "n_codes": 64,
    "codebook_loss_lambda": 1.0,
    "commitment_loss_lambda": 0.25,
  }
  h = types.SimpleNamespace(**config)
  modules = {
    "encoder": program.Encoder(h),
    "quantizer": program.Quantizer(h),
    "generator": program.Generator(h),
  }
  found = {"shapes": with_drawn_weights(modules, 1), "config": json.dumps(config)}
  x = draw_signal(2, 2, 8 * 320)
  with torch.no_grad():
    z = modules["encoder"](torch.from_numpy(x)[:, None])
    z_q, loss, codes = modules["quantizer"](z)
    y = modules["generator"](z_q)
    embedded = modules["quantizer"].embed(torch.stack([c.reshape(2, -1) for c in codes], -1))
  codes = np.stack([code.numpy().reshape(2, -1) for code in codes], axis=-1)
  assert torch.allclose(embedded, z_q, atol=1e-6)
  print("use of codes", [len(np.unique(codes[..., i])) for i in range(4)])
  return found | {
    "latents": z.numpy().transpose(0, 2, 1),
    "codes": codes.astype(np.int16),
    "loss": np.float32(loss),
    "embedded": embedded.numpy().transpose(0, 2, 1)[:, :4],
    "wave": y.numpy()[:, 0],
  }


def package(name: str, path: pathlib.Path) -> None:
  """A package whose own `__init__` is not run, as it would import more than is here."""
  sys.modules[name] = types.ModuleType(name)
  sys.modules[name].__path__ = [str(path)]


def vocos_parts(sources: pathlib.Path, checkout: str, encoder: str, decoder: str):
  """The modules of SEANet, of quantization, of the backbone and of the head."""
  mel = types.ModuleType("torchaudio.functional.functional")
  mel._hz_to_mel = mel._mel_to_hz = None
  sys.modules["torchaudio"] = types.ModuleType("torchaudio")
  sys.modules["torchaudio.functional"] = types.ModuleType("torchaudio.functional")
  sys.modules["torchaudio.functional.functional"] = mel
  root = sources / checkout
  package(encoder, root / encoder)
  package(decoder, root / decoder)
  package(f"{encoder}.quantization", root / encoder / "quantization")
  names = (
    f"{encoder}.modules",
    f"{encoder}.quantization.core_vq",
    f"{decoder}.models",
    f"{decoder}.heads",
  )
  return [importlib.import_module(name) for name in names]


class Whole(torch.nn.Module):
  """Parts under the names that a checkpoint has."""

  def __init__(self, seanet, quantizer, backbone, head):
    super().__init__()
    encodec = torch.nn.Module()
    encodec.encoder, encodec.quantizer = seanet, torch.nn.Module()
    encodec.quantizer.vq = quantizer
    self.feature_extractor = torch.nn.Module()
    self.feature_extractor.encodec = encodec
    self.backbone, self.head = backbone, head


def vocos_case(parts, seed: int, settings, latents: int, filters: int, stages: int, size: int):
  """Two rows of six frames and a part: latents, codes and waves."""
  seanet, quantization, models, heads = parts
  features, backbone, head = settings
  strides = features.get("dowmsamples", [8, 5, 4, 2])
  model = Whole(
    seanet.SEANetEncoder(
      causal=False,
      norm="weight_norm",
      pad_mode="reflect",
      lstm=2,
      dimension=latents,
      n_filters=filters,
      ratios=strides,
      true_skip=False,
    ),
    quantization.LanguageVectorQuantization(
      num_quantizers=stages, dim=latents, codebook_size=size, kmeans_init=True
    ),
    models.VocosBackbone(**backbone),
    heads.ISTFTHead(**head),
  )
  state = {name: list(x.shape) for name, x in model.state_dict().items()}
  weights = {name: torch.from_numpy(x) for name, x in draw_sound(state, seed).items()}
  weights["head.istft.window"] = model.head.istft.window
  model.load_state_dict(weights)
  model.eval()
  hop = math.prod(strides)
  x = draw_signal(seed + 1, 2, 6 * hop - 7)
  with torch.no_grad():
    z = model.feature_extractor.encodec.encoder(torch.from_numpy(x)[:, None])
    quantizer = model.feature_extractor.encodec.quantizer.vq
    bands = (0, latents // 3, 2 * latents // 3, latents)
    mean, spread = z.mean(dim=(0, 2)), z.std(dim=(0, 2))
    for stage, layer in enumerate(quantizer.layers):
      book = layer._codebook
      book.inited.fill_(1)
      first = stage < (1 if stages == 1 else 3)
      entries = spread * 2 * torch.from_numpy(draw_signal(9 + stage, size, latents))
      book.embed.copy_(mean * first + entries)
      if stages > 1 and first:  # Zero outside its band, as k-means and averages leave it.
        book.embed[:, : bands[stage]] = 0
        book.embed[:, bands[stage + 1] :] = 0
    z_q, codes, _ = quantizer(z)
    y = model.head(model.backbone(z_q, bandwidth_id=torch.tensor([0])))
  print("use of codes", [len(np.unique(code)) for code in codes.numpy()])
  config = {"features": features, "backbone": backbone, "head": head}
  return {
    "shapes": json.dumps(state),
    "config": json.dumps(config),
    "codebooks": np.stack([layer._codebook.embed.numpy() for layer in quantizer.layers]),
    "latents": z.numpy().transpose(0, 2, 1),
    "codes": codes.numpy().transpose(1, 2, 0).astype(np.int16),
    "quantized": z_q.numpy().transpose(0, 2, 1),
    "wave": y.numpy(),
  }


def narrow_backbone(latents: int, width: int, hidden: int) -> dict[str, int]:
  return {
    "input_channels": latents,
    "dim": width,
    "intermediate_dim": hidden,
    "num_layers": 2,
    "adanorm_num_embeddings": 4,
  }


def wavtokenizer(sources: pathlib.Path) -> dict[str, np.ndarray]:
  """At a sixteenth of the published widths; frames of 600 samples."""
  parts = vocos_parts(sources, "WavTokenizer", "encoder", "decoder")
  features = {"dowmsamples": [6, 5, 5, 4], "num_quantizers": 1, "vq_bins": 32}
  backbone = narrow_backbone(24, 64, 96)
  head = {"dim": 64, "n_fft": 2400, "hop_length": 600, "padding": "same"}
  return vocos_case(parts, 3, (features, backbone, head), 24, 2, 1, 32)


def language_codec(sources: pathlib.Path) -> dict[str, np.ndarray]:
  """Narrow; bands of 6, 7 and 7 channels."""
  parts = vocos_parts(sources, "Languagecodec", "languagecodec_encoder", "languagecodec_decoder")
  backbone = narrow_backbone(20, 32, 48)
  head = {"dim": 32, "n_fft": 1280, "hop_length": 320, "padding": "same"}
  return vocos_case(parts, 5, ({}, backbone, head), 20, 2, 5, 32)


def dm_codec(sources: pathlib.Path) -> dict[str, np.ndarray]:
  """Two rows of seven frames and a part, narrow; and the losses that compare with teachers."""
  root = sources / "DM-Codec"
  package("codec", root / "codec")
  package("codec.trainer", root / "codec/trainer")
  program = importlib.import_module("codec.model")
  losses = run_source(
    root / "codec/trainer/loss.py",
    "dm_codec_loss",
    ("import torchaudio", ""),
    ("import matplotlib.pylab as plt", ""),
    # There is no such function; trainer.py has the right one.
    ("torch.functional.l1_loss", "torch.nn.functional.l1_loss"),
  )
  config = {
    "n_filters": 4,
    "strides": [8, 5, 4, 2],
    "dimension": 16,
    "semantic_dimension": 12,
    "bidirectional": True,
    "dilation_base": 2,
    "residual_kernel_size": 3,
    "n_residual_layers": 1,
    "lstm_layers": 2,
    "activation": "ELU",
    "codebook_size": 32,
    "n_q": 4,
    "sample_rate": 16_000,
  }
  model = program.Model(config)
  state = {name: list(x.shape) for name, x in model.state_dict().items()}
  drawn = {name: torch.from_numpy(x) for name, x in draw_sound(state, 7).items()}
  model.load_state_dict(drawn)
  model.eval()
  x = torch.from_numpy(draw_signal(8, 2, 8 * 320 - 9))[:, None]
  with torch.no_grad():
    z = model.encoder(x)
    mean, spread = z.mean(dim=(0, 2)), z.std(dim=(0, 2))
    for stage, layer in enumerate(model.quantizer.vq.layers):
      book = layer._codebook
      book.inited.fill_(1)
      entries = spread * 2 * torch.from_numpy(draw_signal(20 + stage, 32, 16))
      book.embed.copy_(mean * (stage == 0) + entries)
    codes = model.encode(x)
    y, _, first = model(x, layers=[0])
    _, _, third = model(x, layers=[2])
    teacher = torch.from_numpy(draw_signal(31, 2, 7, 12))
    student = torch.from_numpy(draw_signal(32, 2, 8, 12))
  print("use of codes", [len(np.unique(code)) for code in codes.numpy()])
  return {
    "shapes": json.dumps(state),
    "config": json.dumps(config),
    "codebooks": np.stack([x._codebook.embed.numpy() for x in model.quantizer.vq.layers]),
    "latents": z.numpy().transpose(0, 2, 1),
    "codes": codes.numpy().transpose(1, 2, 0).astype(np.int16),
    "wave": y.numpy()[:, 0],
    "first": first.numpy(),
    "third": third.numpy(),
    "by_feature": losses.d_axis_distill_loss(student, teacher).numpy(),
    "by_frame": losses.t_axis_distill_loss(student, teacher).numpy(),
  }


CASES = {
  "dm_codec": dm_codec,
  "hifi_codec": hifi_codec,
  "wavtokenizer": wavtokenizer,
  "language_codec": language_codec,
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--sources", type=pathlib.Path, required=True)
  parser.add_argument("--only", choices=CASES)
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "neural.npz")
  options = parser.parse_args()
  torch.set_num_threads(1)
  arrays = dict(np.load(options.out)) if options.only and options.out.exists() else {}
  for case in [options.only] if options.only else CASES:
    found = CASES[case](options.sources)
    arrays |= {f"{case}/{name}": np.asarray(array) for name, array in found.items()}
  np.savez_compressed(options.out, **arrays)
  print(f"{len(arrays)} arrays, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
  main()
