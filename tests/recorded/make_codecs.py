"""Records what the quantizers of DAC and Moshi give in training: `codecs.npz` beside this.

Command: python tests/recorded/make_codecs.py --sources DIR [--out FILE]

DIR holds the unpacked wheels of descript-audio-codec 1.0 and moshi 0.2.13; besides, torch and
einops. Keys are CASE/ARRAY; inputs are recorded with the outputs.
"""

import argparse
import importlib
import pathlib
import sys
import types

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
RNG = np.random.default_rng(0)


def draw(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def numpy(x):
  return x.detach().numpy().copy()


def part(sources: pathlib.Path, name: str):
  """A module of a package whose own `__init__` would import more than is here."""
  package = name.split(".")[0]
  sys.modules[package] = types.ModuleType(package)
  sys.modules[package].__path__ = [str(sources / package)]
  return importlib.import_module(name)


def kernel(conv):
  """[in, out] of a convolution of width 1, [out, in, 1] there."""
  return numpy(conv.weight)[..., 0].T


def dac_case(sources):
  """Rows 0 and 1 drop stages, as many as were drawn for them."""
  # `dac.nn` imports its losses, which need audiotools; its quantizer needs neither.
  sys.modules["dac.nn"] = types.ModuleType("dac.nn")
  sys.modules["dac.nn"].__path__ = [str(sources / "dac" / "nn")]
  module = part(sources, "dac.nn.quantize").ResidualVectorQuantize(
    input_dim=6, n_codebooks=3, codebook_size=8, codebook_dim=4, quantizer_dropout=0.5
  )
  for stage in module.quantizers:
    for conv in (stage.in_proj, stage.out_proj):
      torch.nn.utils.remove_weight_norm(conv)
      conv.bias.data.copy_(0.1 * torch.randn(conv.bias.shape))
  module.train()
  z, weight = draw(4, 7, 6), draw(4, 7, 6)
  x = torch.tensor(z.transpose(0, 2, 1), requires_grad=True)
  torch.manual_seed(1)
  dropped = torch.randint(1, 4, (4,))[:2]
  torch.manual_seed(1)
  out, codes, _, commitment, codebook = module(x)
  found = {"z": z, "weight": weight, "num_active": np.append(numpy(dropped), [3, 3])}
  found |= {"codes": numpy(codes).transpose(0, 2, 1), "z_q": numpy(out).transpose(0, 2, 1)}
  found |= {"commitment": numpy(commitment), "codebook": numpy(codebook)}
  total = (out * torch.tensor(weight.transpose(0, 2, 1))).sum() + 0.25 * commitment + codebook
  total.backward()
  found["to_z"] = numpy(x.grad).transpose(0, 2, 1)
  stages = module.quantizers
  for name, conv in (("in", "in_proj"), ("out", "out_proj")):
    convs = [getattr(stage, conv) for stage in stages]
    found[f"{name}_kernel"] = np.stack([kernel(conv) for conv in convs])
    found[f"{name}_bias"] = np.stack([numpy(conv.bias) for conv in convs])
    found[f"to_{name}_kernel"] = np.stack([numpy(c.weight.grad)[..., 0].T for c in convs])
    found[f"to_{name}_bias"] = np.stack([numpy(conv.bias.grad) for conv in convs])
  found["codebooks"] = np.stack([numpy(stage.codebook.weight) for stage in stages])
  found["to_codebooks"] = np.stack([numpy(stage.codebook.weight.grad) for stage in stages])
  return found


def mimi_case(sources):
  """Three updates of the moving averages, and a batch without the last codebook."""
  module = part(sources, "moshi.quantization.vq").SplitResidualVectorQuantizer(
    n_q=4, dimension=5, input_dimension=6, output_dimension=6, bins=8, decay=0.8,
    threshold_usage_ratio=0.0,
  )  # fmt: skip
  module.train()
  halves = (module.rvq_first, module.rvq_rest)
  books = [layer._codebook for half in halves for layer in half.vq.layers]
  for book in books:
    book.embedding_sum.copy_(0.5 * torch.randn(8, 5))
    book._initialized.fill_(1)
  found = {}
  for name, half in zip(("semantic", "acoustic"), halves, strict=True):
    found |= {f"{name}_in": kernel(half.input_proj), f"{name}_out": kernel(half.output_proj)}
  for step, number in enumerate((4, 4, 4, 3)):
    if step == 3:
      found["counts"] = np.stack([numpy(book.cluster_usage) for book in books])
      found["sums"] = np.stack([numpy(book.embedding_sum) for book in books])
    module.set_num_codebooks(number)
    found[f"codebooks{step}"] = np.stack([numpy(book.embedding) for book in books])
    z, weight = draw(2, 7, 6), draw(2, 7, 6)
    x = torch.tensor(z.transpose(0, 2, 1), requires_grad=True)
    out = module(x, 12.5)
    total = (out.x * torch.tensor(weight.transpose(0, 2, 1))).sum() + out.penalty
    convs = [conv for half in halves for conv in (half.input_proj, half.output_proj)]
    to_x, *to_convs = torch.autograd.grad(total, (x, *(conv.weight for conv in convs)))
    found |= {f"z{step}": z, f"weight{step}": weight, f"num_active{step}": np.int32(number)}
    found[f"codes{step}"] = numpy(out.codes).transpose(0, 2, 1)
    found[f"z_q{step}"] = numpy(out.x).transpose(0, 2, 1)
    found |= {f"loss{step}": numpy(out.penalty), f"to_z{step}": numpy(to_x).transpose(0, 2, 1)}
    for name, gradient in zip(
      ("semantic_in", "semantic_out", "acoustic_in", "acoustic_out"), to_convs, strict=True
    ):
      found[f"to_{name}{step}"] = numpy(gradient)[..., 0].T
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--sources", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "codecs.npz")
  options = parser.parse_args()
  sys.path.insert(0, str(options.sources))
  torch.manual_seed(0)
  cases = {"dac": dac_case(options.sources), "mimi": mimi_case(options.sources)}
  arrays = {f"{case}/{name}": x for case, found in cases.items() for name, x in found.items()}
  narrow = {name: x.astype(np.int32) if x.dtype == np.int64 else x for name, x in arrays.items()}
  np.savez_compressed(options.out, **narrow)
  print(f"{len(narrow)} arrays, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
  main()
