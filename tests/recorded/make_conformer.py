"""Records what NeMo's streaming FastConformer gives at random weights: `conformer.npz` beside this.

Command: python tests/recorded/make_conformer.py --sources DIR [--out FILE]

DIR is a checkout of NVIDIA/NeMo (here of 2025-09-20); besides, torch. Of NeMo five files of the
encoder run; whatever else they import, which is for training and export, is stood in for. Keys are
`weight/NAME` with NeMo's names, those of heads too, whose outputs are written down in torch as
NeMo's rnnt.py has them; inputs are recorded with the outputs.
"""

import argparse
import contextlib
import importlib
import pathlib
import sys
import types

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
PARTS = "nemo.collections.asr.parts.submodules."
OURS = (
  "nemo.collections.asr.modules.conformer_encoder",
  *(
    PARTS + n for n in ("subsampling", "causal_convs", "multi_head_attention", "conformer_modules")
  ),
)
LABELS, PREDICTION = 7, 12


class Stand(types.ModuleType):
  """A module that has whatever is asked of it, an empty class."""

  __path__: list[str] = []  # noqa: RUF012
  __all__: list[str] = []  # noqa: RUF012

  def __getattr__(self, name):
    if name == "NeuralModule":
      return torch.nn.Module
    if name == "Swish":
      return torch.nn.SiLU
    if name == "activation_registry":
      return {}
    if name == "avoid_float16_autocast_context":
      return contextlib.nullcontext
    if name == "compute_stochastic_depth_drop_probs":
      return lambda count, *_: [0.0] * count
    if name == "typecheck":
      return lambda *_, **__: lambda function: function
    if name == "CacheAwareStreamingConfig":
      return types.SimpleNamespace
    if name == "AccessMixin":
      absent = {"is_access_enabled": lambda *_, **__: False}
      return type(name, (), absent)
    if name == "AttentionAdapterModuleMixin":
      return type(name, (), {"is_adapter_available": lambda _: False})
    if name == "adapter_mixins":
      found = Stand(name)
      found.get_registered_adapter = lambda _: True
      return found
    if name == "logging":
      return types.SimpleNamespace(info=lambda *_: None, warning=lambda *_: None)
    return type(name, (), {})


class Finder:
  """Finds the five files in the sources, and stands in for all else of NeMo."""

  def __init__(self, sources: pathlib.Path):
    self.sources = sources

  def find_spec(self, name, path=None, target=None):
    del path, target
    if name in OURS:
      file = self.sources / (name.replace(".", "/") + ".py")
      return importlib.util.spec_from_file_location(name, file)
    if name.split(".")[0] in ("nemo", "omegaconf"):
      return importlib.util.spec_from_loader(name, self)
    return None

  def create_module(self, spec):
    return Stand(spec.name)

  def exec_module(self, module):
    del module


def numpy(x):
  return x.detach().numpy().copy()


def run(sources: pathlib.Path) -> dict[str, np.ndarray]:
  sys.meta_path.insert(0, Finder(sources))
  encoder_of = importlib.import_module(OURS[0]).ConformerEncoder
  torch.manual_seed(0)
  encoder = encoder_of(
    feat_in=80,
    n_layers=2,
    d_model=16,
    subsampling="dw_striding",
    subsampling_factor=8,
    subsampling_conv_channels=4,
    causal_downsampling=True,
    ff_expansion_factor=4,
    n_heads=2,
    att_context_size=[8, 3],
    att_context_style="chunked_limited",
    conv_kernel_size=9,
    conv_norm_type="layer_norm",
    conv_context_size="causal",
    pos_emb_max_len=200,
  ).eval()
  weights = {f"encoder.{name}": tensor for name, tensor in encoder.named_parameters()}
  for name, tensor in weights.items():
    if tensor.ndim == 1 or "pos_bias" in name:
      tensor.data.add_(0.1 * torch.randn_like(tensor))
  mel = torch.randn(2, 80, 137)
  lengths = torch.tensor([137, 90])
  out = {"mel": numpy(mel.transpose(1, 2)), "lengths": lengths.numpy()}
  with torch.no_grad():
    y, found = encoder(mel, lengths)
    out |= {"encoded": numpy(y.transpose(1, 2)), "encoded_lengths": found.numpy()}
    out["subsampled"] = numpy(encoder.pre_encode(x=mel.transpose(1, 2), lengths=lengths)[0])
    # A stream of the first row: mel frames 0 to 24, then 32 more each time, 9 of them once more.
    cache, first = encoder.get_initial_cache_state(batch_size=1), 0
    for i, end in enumerate((25, 57, 89, 121)):
      cfg = encoder.streaming_cfg
      cfg.drop_extra_pre_encoded = 0 if i == 0 else 2
      part = mel[:1, :, max(0, first - 9) : end]
      found = encoder(part, torch.tensor([part.shape[2]]), *cache)
      y, _, *cache = found
      out[f"step_{i}"] = numpy(y.transpose(1, 2))
      out[f"channel_cache_{i}"], out[f"time_cache_{i}"] = numpy(cache[0]), numpy(cache[1])
      out[f"cache_length_{i}"] = numpy(cache[2])
      first = end
    embed = torch.nn.Embedding(LABELS + 1, PREDICTION, padding_idx=LABELS)
    lstm = torch.nn.LSTM(PREDICTION, PREDICTION, batch_first=True)
    parts = {
      "decoder.prediction.embed": embed,
      "decoder.prediction.dec_rnn.lstm": lstm,
      "joint.enc": torch.nn.Linear(16, PREDICTION),
      "joint.pred": torch.nn.Linear(PREDICTION, PREDICTION),
      "joint.joint_net.2": torch.nn.Linear(PREDICTION, LABELS + 1),
      "ctc_decoder.decoder_layers.0": torch.nn.Conv1d(16, LABELS + 1, 1),
    }
    for prefix, module in parts.items():
      weights |= {f"{prefix}.{name}": tensor for name, tensor in module.named_parameters()}
    y = torch.tensor(out["encoded"])
    labels = torch.randint(0, LABELS, (2, 5))
    before = torch.cat([torch.zeros(2, 1, PREDICTION), embed(labels)], dim=1)
    predicted = parts["joint.pred"](lstm(before)[0])
    joined = torch.relu(parts["joint.enc"](y)[:, :, None] + predicted[:, None])
    out["labels"] = labels.numpy()
    out["joined"] = numpy(parts["joint.joint_net.2"](joined))
    ctc = parts["ctc_decoder.decoder_layers.0"](y.transpose(1, 2))
    out["ctc"] = numpy(ctc.transpose(1, 2))
  return out | {f"weight/{name}": numpy(tensor) for name, tensor in weights.items()}


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--sources", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "conformer.npz")
  options = parser.parse_args()
  np.savez_compressed(options.out, **run(options.sources))
