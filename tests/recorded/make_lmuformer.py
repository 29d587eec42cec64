"""Records what the authors' program of LMUFormer gives, and others: `lmuformer.npz` beside this.

Command: python tests/recorded/make_lmuformer.py --source DIR [--out FILE]

DIR is a checkout of github.com/zeyuliu1037/LMUFormer; besides, torch, scipy, transformers and
spikingjelly, whose neurons run without a GPU. timm's registry is not needed and stands aside.
Weights are not recorded but drawn anew (`drawn_weights.draw_lmu`) from the names and shapes that
are. Keys are CASE/ARRAY.
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

from drawn_weights import draw_lmu, draw_signal  # noqa: E402

FRAMES, BANDS, WIDTH, CLASSES = 128, 12, 16, 5


def stand_aside() -> None:
  """Modules that the program imports and the networks do not need, and neurons without cupy."""
  from spikingjelly.clock_driven.neuron import MultiStepLIFNode

  for name in ("timm", "timm.models"):
    sys.modules[name] = types.ModuleType(name)
  layers, registry, vit = (
    types.ModuleType(f"timm.models.{part}") for part in ("layers", "registry", "vision_transformer")
  )
  layers.to_2tuple = layers.DropPath = None
  layers.trunc_normal_ = torch.nn.init.trunc_normal_
  registry.register_model = lambda function: function
  vit._cfg = dict
  for module in (layers, registry, vit):
    sys.modules[module.__name__] = module
  utilities = types.ModuleType("utilities")

  def get_act(act_type="spike", **settings):
    kinds = {"relu": torch.nn.ReLU, "gelu": torch.nn.GELU}
    return MultiStepLIFNode(**settings) if act_type == "spike" else kinds[act_type]()

  utilities.get_act = get_act
  sys.modules["utilities"] = utilities


def network(program, kind: str, seed: int, gain: float) -> dict[str, np.ndarray]:
  """Two rows: logits of the whole and after each frame."""
  build = getattr(program, kind)
  model = build(
    num_classes=CLASSES, embed_dims=WIDTH, num_heads=2, mlp_ratios=2, in_channels=BANDS, depths=1
  )
  shapes = {name: list(x.shape) for name, x in model.state_dict().items()}
  lmu = "block.0.attn.lmu."
  fixed = {name: x for name, x in model.state_dict().items() if name.startswith(lmu)}
  drawn = {name: torch.from_numpy(x) for name, x in draw_lmu(shapes, seed, gain).items()}
  drawn |= {name: fixed[name] for name in fixed if name[len(lmu) :] in ("A", "B", "H", "fft_H")}
  model.load_state_dict(drawn)
  model.eval()
  x = 4 * draw_signal(seed + 1, 2, FRAMES, BANDS)
  found = {"shapes": json.dumps(shapes), "A": fixed[lmu + "A"], "B": fixed[lmu + "B"]}
  with torch.no_grad():
    for mode, name in (("normal", "whole"), ("all_seq", "each")):
      model.test_mode = mode
      for module in model.modules():
        if hasattr(module, "reset"):
          module.reset()
      found[name] = model(torch.from_numpy(x)).numpy()
  found["each"] = found["each"].transpose(1, 0, 2)
  print(kind, "logits", found["whole"].std(), found["whole"][0, :3])
  return found


def neurons() -> dict[str, np.ndarray]:
  """Spikes, and the gradient of their weighted sum."""
  from spikingjelly.clock_driven.neuron import MultiStepLIFNode

  x = torch.from_numpy(4 * draw_signal(11, 40, 3, 4)).requires_grad_()
  node = MultiStepLIFNode(tau=2.0, v_threshold=0.5, detach_reset=True)
  spikes = node(x)
  weights = torch.from_numpy(draw_signal(12, 40, 3, 4))
  (spikes * weights).sum().backward()
  print("spikes", float(spikes.detach().mean()))
  return {"spikes": spikes.detach().numpy(), "gradient": x.grad.numpy()}


def spectra() -> dict[str, np.ndarray]:
  """Kaldi's log-mel spectra of noise, as transformers has them in NumPy."""
  from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

  filters = mel_filter_bank(
    num_frequency_bins=257,
    num_mel_filters=128,
    min_frequency=20,
    max_frequency=8000,
    sampling_rate=16_000,
    norm=None,
    mel_scale="kaldi",
    triangularize_in_mel_space=True,
  )
  x = draw_signal(13, 4000)
  found = spectrogram(
    x,
    window_function(400, "hann", periodic=False),
    frame_length=400,
    hop_length=160,
    fft_length=512,
    power=2.0,
    center=False,
    preemphasis=0.97,
    mel_filters=filters,
    log_mel="log",
    mel_floor=1.192092955078125e-07,
    remove_dc_offset=True,
  )
  return {"mel": found.T.astype(np.float32)}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--source", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "lmuformer.npz")
  options = parser.parse_args()
  torch.set_num_threads(1)
  stand_aside()
  sys.path.insert(0, str(options.source / "src"))
  import lmu_rnn as program

  cases = {
    "plain": network(program, "lmu_rnn_conv1d", 1, 1.0),
    "spiking": network(program, "slmu_rnn_ms_conv1d", 3, 1.5),
    "neurons": neurons(),
    "spectra": spectra(),
  }
  arrays = {
    f"{case}/{name}": np.asarray(array)
    for case, found in cases.items()
    for name, array in found.items()
  }
  np.savez_compressed(options.out, **arrays)
  print(f"{len(arrays)} arrays, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
  main()
