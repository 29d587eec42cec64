"""Records what the authors' programs of neural sound codecs give: `neural.npz` beside this.

Command: python tests/recorded/make_neural.py --sources DIR [--only CASE] [--out FILE]

DIR holds checkouts of github.com/yangdongchao/AcademiCodec; besides, torch. Weights are not
recorded but drawn anew (`drawn_weights.draw_sound`) from the names and shapes that are, and so are
signals. Keys are CASE/ARRAY. Widths that a program fixes are made small in its text.
"""

import argparse
import json
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


CASES = {"hifi_codec": hifi_codec}


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
