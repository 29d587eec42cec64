"""Records what the authors' program of SemantiCodec gives: `semanticodec.npz` beside this.

Command: python tests/recorded/make_semanticodec.py --source DIR [--out FILE]

DIR is a checkout of github.com/haoheliu/SemantiCodec-inference; besides, torch, timm, einops,
vector-quantize-pytorch and torchaudio. Weights, signals and noise are not recorded but
drawn anew (`drawn_weights`). Keys are CASE/ARRAY. Widths that a program fixes are made small in its
text, with windows of 256 frames and 32 bands in place of 1024 and 128.
"""

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import json
import pathlib
import shutil
import sys
import tempfile
from unittest import mock

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from drawn_weights import draw_signal, draw_sound  # noqa: E402

WIDTH, ENTRIES, CENTROIDS, STEPS = 32, 10, 12, 4
DIFFUSION = "semanticodec.modules.decoder.latent_diffusion"


# What is replaced in each file.
CHANGES = {
  "modules/encoder/encoder.py": [
    ("768", str(WIDTH)),
    ("batch.size(-2) == 1024 and batch.size(-1) == 128", "True"),
    ("embedding_dim, 64, 8", "embedding_dim, 16, 2"),
  ],
  "modules/audiomae/AudioMAE.py": [
    ("img_size=(1024, 128)\n        )", "img_size=(256, 32)\n        )")
  ],
  "modules/audiomae/models_mae.py": [
    (
      "embed_dim=768,\n        depth=12,\n        num_heads=12",
      "embed_dim=32, depth=8, num_heads=4",
    ),
    ("contextual_depth=8,", "contextual_depth=5,"),
    (
      "decoder_embed_dim=512,\n        decoder_num_heads=16",
      "decoder_embed_dim=16, decoder_num_heads=2",
    ),
    ("decoder_depth=8", "decoder_depth=1"),
  ],
  "modules/decoder/utilities/model.py": [
    ('"upsample_initial_channel": 1024', '"upsample_initial_channel": 64'),
    ('"num_mels": 64', '"num_mels": 16'),
    ('"resblock_kernel_sizes": [3, 7, 11]', '"resblock_kernel_sizes": [3, 5, 7]'),
  ],
  # These import what is for training alone, or all there is.
  "__init__.py": None,
  "modules/decoder/utilities/__init__.py": None,
  "modules/decoder/utilities/tools.py": [],
}


def change_program(root: pathlib.Path, folder: pathlib.Path) -> None:
  """Puts the program, changed, in `folder` and where imports look."""
  shutil.copytree(root / "semanticodec", folder / "semanticodec")
  for name, changes in CHANGES.items():
    path = folder / "semanticodec" / name
    text = path.read_text() if changes else "synth_one_sample = None\n"
    for old, new in changes or ():
      assert old in text, f"{path} holds no {old!r}"
      text = text.replace(old, new)
    path.write_text(text)
  sys.path.insert(0, str(folder))
  sys.meta_path.insert(0, Absent())


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """What is imported for its names alone: anything of torchaudio, and of timm's torchvision."""

  def find_spec(self, name, path, target=None):
    del path, target
    if name.split(".")[0] in ("torchaudio", "torchvision"):
      return importlib.machinery.ModuleSpec(name, self, is_package=True)
    return None

  def create_module(self, spec):
    return mock.MagicMock(name=spec.name)

  def exec_module(self, module):
    pass


def shapes_of(module) -> dict[str, list[int]]:
  names = {name: list(value.shape) for name, value in module.state_dict().items()}
  return {name: shape for name, shape in names.items() if not name.startswith("model_ema.")}


def drawn(module, seed: int, fixed: tuple[str, ...]):
  """Draws the module's weights but those of `fixed` names; gives their names and shapes."""
  import torch

  shapes, state = shapes_of(module), module.state_dict()
  arrays = draw_sound(shapes, seed)
  for name, array in arrays.items():
    if not name.startswith(fixed):
      state[name].copy_(torch.from_numpy(array))
  module.load_state_dict(state)
  module.eval()
  return shapes


def spectrograms() -> np.ndarray:
  """[2, 256, 32]; the second is one value from row 130 on."""
  mel = 2 * draw_signal(7, 2, 256, 32)
  mel[1, 130:] = -1.277
  return mel


def encoder(stack: int) -> dict[str, np.ndarray]:
  import torch

  program = importlib.import_module("semanticodec.modules.encoder.encoder")
  width = WIDTH * stack
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "centroids.npy"
    np.save(path, np.zeros((CENTROIDS, width), np.float32))
    model = program.AudioMAEConditionQuantResEncoder(
      centroid_npy_path=path,
      feature_dimension=width,
      codebook_size=ENTRIES,
      lstm_layer=3 - stack // 2,
    )
  shapes = drawn(model, 10 + stack, ("quantizer.", "audiomae.model.pos_embed"))
  mel = torch.from_numpy(spectrograms())
  taken = {}
  with torch.no_grad():
    features = model.audiomae(mel[:, None], no_mask=True)
    stacked = features[:, 1:]
    if stack > 1:
      stacked = model.concate(features).flatten(1, 2)
    rows = stacked.reshape(-1, width)
    # So that tokens differ: some of the features themselves, moved a little.
    centroids = rows[:: len(rows) // CENTROIDS][:CENTROIDS].clone()
    centroids += rows.std() * 0.1 * torch.from_numpy(draw_signal(20 + stack, *centroids.shape))
    model.centroid_npy = centroids
    model.encoder_output_linear.register_forward_hook(lambda _, __, y: taken.update(rest=y.clone()))
    book = model.quantizer._codebook
    book.initted.fill_(True)
    book.embed.zero_()
    model._forward(mel)
    rest = taken["rest"].reshape(-1, width)
    book.embed[0] = rest[3 :: len(rest) // ENTRIES][:ENTRIES]
    found = model._forward(mel)
    tokens = found["tokens"]
    context = found["quantized_feature"][0]
    condition = model.token_to_quantized_feature(tokens[:1])
  use = [len(np.unique(tokens[..., i])) for i in range(2)]
  print("stack", stack, "use of tokens", use)
  return {
    "shapes": json.dumps(shapes),
    "centroids": centroids.numpy(),
    "entries": book.embed[0].numpy(),
    "positions": model.audiomae.model.pos_embed.numpy()[0],
    "features": stacked.numpy()[:, ::3, ::5],
    "tokens": tokens.numpy().astype(np.int16),
    "context": context.numpy()[:, ::2, ::7],
    "condition": condition.numpy()[:, :, ::9],
  }


def decoder(width: int) -> dict[str, np.ndarray]:
  """Latents, spectrum and wave of a window of 16 pairs of tokens, from drawn conditions."""
  import torch

  util = importlib.import_module(f"{DIFFUSION}.util")
  config = importlib.import_module("semanticodec.config").get_config(100, 4096)[0]["model"]
  params = config["params"]
  params |= {"latent_t_size": 128, "latent_f_size": 8, "channels": 4}
  params["unet_config"]["params"] |= {
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "context_dim": [2 * width + 192],
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_head_channels": 8,
  }
  first = params["first_stage_config"]["params"]
  first |= {"embed_dim": 4}
  first["ddconfig"] |= {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "z_channels": 4}
  model = util.instantiate_from_config(config)
  buffers = ("betas", "alphas", "sqrt", "log", "posterior", "model_ema", "scale_factor")
  shapes = drawn(model, 30, buffers)
  model.scale_factor.fill_(0.7)
  model.device = torch.device("cpu")
  noises = torch.from_numpy(drawn_noises())
  condition = torch.from_numpy(4 * draw_signal(31, 2, 16, 2 * width))
  condition[1, 11:] = -1
  latents = {}
  decode = model.decode_first_stage

  def kept(z):
    latents["z"] = z.clone()
    latents["mel"] = decode(z)
    return latents["mel"]

  model.decode_first_stage = kept
  with mock.patch("torch.randn", side_effect=list(noises[1:])), torch.no_grad():
    wave = model.generate_sample(
      condition, ddim_steps=STEPS, x_T=noises[0].clone(), unconditional_guidance_scale=2.0
    )
  print("latents", latents["z"].std().item(), "wave", wave.std(), wave.shape)
  return {
    "shapes": json.dumps(shapes),
    "shares": model.alphas_cumprod.numpy(),
    "latents": latents["z"].numpy().transpose(0, 2, 3, 1)[:, ::3],
    "mel": latents["mel"].numpy()[:, 0, ::3],
    "wave": wave[:, 0, ::7],
  }


def drawn_noises() -> np.ndarray:
  """[1 + STEPS, 2, 4, 128, 8], of variance 1."""
  return draw_signal(32, 1 + STEPS, 2, 4, 128, 8) * np.float32(12**0.5)


def helpers() -> dict[str, np.ndarray]:
  """Windows of tokens, and joined waves."""
  import torch

  encoder_lib = importlib.import_module("semanticodec.modules.encoder.encoder")
  ddpm = importlib.import_module(f"{DIFFUSION}.models.ddpm")
  windows = {}
  split = encoder_lib.AudioMAEConditionQuantResEncoder.long_token_split_window
  for length in (5, 512, 513, 992, 993, 1500):
    tokens = torch.arange(length).reshape(1, length, 1)
    parts = split(None, tokens, window_length=512, overlap=0.0625)
    windows[str(length)] = [[int(part[0, 0, 0]), part.shape[1]] for part in parts]
  waves = [draw_signal(40 + i, 1, 1, 4000) for i in range(3)]
  joined = ddpm.overlap_add_waveform([wave.copy() for wave in waves], overlap_duration=0.015625)
  return {
    "windows": json.dumps(windows),
    "joined": joined[0, 0].astype(np.float32),
  }


def features(package: pathlib.Path) -> dict[str, np.ndarray]:
  """Kaldi's features of two seconds, the second of them silent, as torchaudio computes them."""
  import torch

  # Its own file alone: all of the package needs compiled code.
  spec = importlib.util.spec_from_file_location("kaldi", package / "compliance" / "kaldi.py")
  kaldi = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(kaldi)
  found = kaldi.fbank(
    torch.from_numpy(signal()),
    htk_compat=True,
    sample_frequency=16_000,
    use_energy=False,
    window_type="hanning",
    num_mel_bins=128,
    dither=0.0,
    frame_shift=10,
  )
  return {"mel": found.numpy()[::3]}


def signal() -> np.ndarray:
  x = draw_signal(50, 1, 32_000)
  x[:, 16_000:] = 0
  return x


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--source", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "semanticodec.npz")
  options = parser.parse_args()
  import torch

  torch.set_num_threads(1)
  with tempfile.TemporaryDirectory() as folder:
    package = pathlib.Path(importlib.util.find_spec("torchaudio").origin).parent
    change_program(options.source, pathlib.Path(folder))
    cases = {f"encoder{stack}": encoder(stack) for stack in (1, 2, 4)}
    cases |= {"decoder": decoder(2 * WIDTH), "helpers": helpers(), "features": features(package)}
  arrays = {
    f"{case}/{name}": np.asarray(array)
    for case, found in cases.items()
    for name, array in found.items()
  }
  np.savez_compressed(options.out, **arrays)
  print(f"{len(arrays)} arrays, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
  main()
