"""Records what the reference implementations of bottlenecks give: `bottlenecks.npz` beside this.

Command: python tests/recorded/make_bottlenecks.py --sources DIR [--out FILE]

DIR holds checkouts named as the repositories are: VAR, bsq-vit, AcademiCodec, languagecodec,
VQGAN-LC, latent_quantization, discrete_key_value_bottleneck, codebook-features. Besides: torch,
einops, and vector-quantize-pytorch 1.32 from PyPI. Keys are CASE/ARRAY; inputs are recorded with
the outputs, so whoever reads the file needs none of this.
"""

import argparse
import ast
import pathlib
import sys
import types

import einops
import numpy as np
import torch
import vector_quantize_pytorch as vqp
from torch import nn

HERE = pathlib.Path(__file__).parent
RNG = np.random.default_rng(0)


def draw(*shape, scale=1.0):
  return (scale * RNG.normal(size=shape)).astype(np.float32)


def tensor(x, grad=False):
  return torch.tensor(np.asarray(x), requires_grad=grad)


def numpy(x):
  return x.detach().numpy().copy()


def definitions(path: pathlib.Path, names: set[str], scope: dict, inside: str | None = None):
  """Compiles functions and classes `names` of a file, without its imports; returns `scope`."""
  body = ast.parse(path.read_text()).body
  if inside is not None:
    body = next(n for n in body if isinstance(n, ast.ClassDef) and n.name == inside).body
  kinds = (ast.FunctionDef, ast.ClassDef)
  body = [node for node in body if isinstance(node, kinds) and node.name in names]
  assert {node.name for node in body} == names, (path, names)
  exec(compile(ast.Module(body, []), str(path), "exec"), scope)
  return scope


def backward(z, out, loss, weight, others=()):
  """Gradients of <weight, out> + loss with respect to z and `others`."""
  total = (out * tensor(weight)).sum() + loss
  return [numpy(g) for g in torch.autograd.grad(total, (z, *others), retain_graph=True)]


def with_averages(module, codebook, batches, transform=lambda z: z):
  """Codes, output, loss and gradient of each of three updates, and the state after them."""
  module.train()
  found = {}
  for step, z in enumerate(batches):
    found[f"codebook{step}"] = numpy(codebook.embed)
    x = tensor(z, grad=True)
    out, codes, loss = module(transform(x))
    weight = draw(*out.shape)
    (to_z,) = backward(x, out, loss.sum(), weight)
    found |= {f"z{step}": z, f"weight{step}": weight, f"codes{step}": numpy(codes)}
    found |= {f"z_q{step}": numpy(out), f"loss{step}": numpy(loss), f"to_z{step}": to_z}
  state = {"counts": codebook.cluster_size, "sums": codebook.embed_avg, "moved": codebook.embed}
  return found | {name: numpy(value) for name, value in state.items()}


def vector_cases():
  def batches(width=6):
    return [draw(2, 7, width) for _ in range(3)]

  plain = {"dim": 6, "codebook_size": 8, "threshold_ema_dead_code": 0, "decay": 0.8}
  cases = {}
  for name, options in {
    "ema": {"rotation_trick": False},
    "rotation": {"rotation_trick": True},
    "cosine": {"use_cosine_sim": True, "rotation_trick": False},
  }.items():
    module = vqp.VectorQuantize(**plain, **options)
    # Entries as wide as the latents, so that many are used.
    entries = torch.randn(1, 8, 6)
    module._codebook.embed.copy_(
      nn.functional.normalize(entries, dim=-1) if name == "cosine" else entries
    )
    module._codebook.embed_avg.copy_(module._codebook.embed)
    cases[name] = with_averages(module, module._codebook, batches())
  module = vqp.VectorQuantize(
    **plain, heads=2, separate_codebook_per_head=True, codebook_dim=3, rotation_trick=False
  )
  module._codebook.embed.copy_(torch.randn(2, 8, 3))
  module._codebook.embed_avg.copy_(module._codebook.embed)
  # One projection each way stands around the heads; with unit matrices it is not there.
  for layer in (module.project_in, module.project_out):
    if isinstance(layer, nn.Linear):
      layer.weight.data.copy_(torch.eye(6))
      layer.bias.data.zero_()
  cases["product"] = with_averages(module, module._codebook, batches())

  mask = np.arange(7) < np.array([[7], [4]])
  module = vqp.VectorQuantize(**plain, rotation_trick=False, return_zeros_for_masked_padding=True)
  module._codebook.embed.copy_(torch.randn(1, 8, 6))
  module._codebook.embed_avg.copy_(module._codebook.embed)
  codebook, z = numpy(module._codebook.embed), draw(2, 7, 6)
  module.train()
  out, codes, loss = module(tensor(z), mask=tensor(mask))
  cases["masked"] = {"z": z, "mask": mask, "codebook": codebook, "codes": numpy(codes)}
  cases["masked"] |= {"z_q": numpy(out), "loss": numpy(loss)}
  cases["masked"] |= {
    "counts": numpy(module._codebook.cluster_size),
    "sums": numpy(module._codebook.embed_avg),
  }

  module = vqp.VectorQuantize(**plain | {"threshold_ema_dead_code": 0.9}, rotation_trick=False)
  module._codebook.embed.copy_(torch.randn(1, 8, 6))
  module._codebook.embed_avg.copy_(module._codebook.embed)
  z, codebook = draw(1, 9, 6), numpy(module._codebook.embed)
  module.train()
  module(tensor(z))
  book = module._codebook
  cases["restart"] = {"z": z, "codebook": codebook, "counts": numpy(book.cluster_size)}
  cases["restart"] |= {"sums": numpy(book.embed_avg), "moved": numpy(book.embed)}

  module = vqp.VectorQuantize(
    **plain, learnable_codebook=True, ema_update=False, rotation_trick=False
  )
  module._codebook.embed.data.copy_(torch.randn(1, 8, 6))
  module.train()
  z = draw(2, 7, 6)
  x, book = tensor(z, grad=True), module._codebook.embed
  out, codes, loss = module(x)
  weight = draw(2, 7, 6)
  to_z, to_codebook = backward(x, out, loss.sum(), weight, (book,))
  cases["gradient"] = {"z": z, "codebook": numpy(book), "weight": weight, "codes": numpy(codes)}
  cases["gradient"] |= {"loss": numpy(loss), "to_z": to_z, "to_codebook": to_codebook}

  module = vqp.SimVQ(dim=6, codebook_size=8, rotation_trick=False)
  module.frozen_codebook.copy_(torch.randn(8, 6))
  z = draw(2, 7, 6)
  x, matrix = tensor(z, grad=True), module.code_transform.weight
  out, codes, loss = module(x)
  to_z, to_map = backward(x, out, loss, weight, (matrix,))
  cases["simvq"] = {"z": z, "frozen": numpy(module.frozen_codebook), "map": numpy(matrix).T}
  cases["simvq"] |= {"weight": weight, "codes": numpy(codes), "z_q": numpy(out)}
  cases["simvq"] |= {"loss": numpy(loss), "to_z": to_z, "to_map": to_map.T}

  samples = draw(60, 4)
  from vector_quantize_pytorch.vector_quantize_pytorch import kmeans

  start = samples[:10].copy()
  start[9] = 50.0  # A centre that nothing is near to.
  means, bins = kmeans(
    tensor(samples)[None], 10, 5, sample_fn=lambda data, number: tensor(start)[None]
  )
  cases["kmeans"] = {"rows": samples, "start": start, "means": numpy(means[0])}
  cases["kmeans"] |= {"counts": numpy(bins[0])}
  return cases


def residual_cases(sources):
  cases = {}
  for name, shared in (("residual", False), ("residual_shared", True)):
    module = vqp.ResidualVQ(
      dim=6,
      num_quantizers=3,
      codebook_size=8,
      threshold_ema_dead_code=0,
      decay=0.8,
      rotation_trick=False,
      shared_codebook=shared,
    )
    module.train()
    books = [layer._codebook for layer in module.layers]
    for stage, book in enumerate(books[: 1 if shared else 3]):
      book.embed.copy_(torch.randn(1, 8, 6) * 0.7**stage)
      book.embed_avg.copy_(book.embed)
    found = {"codebook": np.concatenate([numpy(book.embed) for book in books])}
    for step in range(3):
      z, weight = draw(2, 7, 6), draw(2, 7, 6)
      x = tensor(z, grad=True)
      out, codes, losses = module(x)
      through = numpy(torch.autograd.grad((out * tensor(weight)).sum(), x, retain_graph=True)[0])
      pull = numpy(torch.autograd.grad(losses.sum(), x)[0])
      found |= {f"z{step}": z, f"weight{step}": weight, f"codes{step}": numpy(codes)}
      found |= {f"z_q{step}": numpy(out), f"loss{step}": numpy(losses)}
      found |= {f"through{step}": through, f"pull{step}": pull}
    found["counts"] = np.concatenate([numpy(book.cluster_size) for book in books])
    found["sums"] = np.concatenate([numpy(book.embed_avg) for book in books])
    found["moved"] = np.concatenate([numpy(book.embed) for book in books])
    cases[name] = found

  scope = definitions(
    sources / "AcademiCodec/academicodec/models/hificodec/models.py",
    {"Quantizer_module", "Quantizer"},
    {"torch": torch, "nn": nn},
  )
  options = types.SimpleNamespace(
    n_code_groups=2, n_codes=4, codebook_loss_lambda=1.0, commitment_loss_lambda=0.25
  )
  module = scope["Quantizer"](options)
  layers = module.quantizer_modules, module.quantizer_modules2
  for stage, layer in enumerate(layers):
    for part in layer:
      part.embedding.weight.data.copy_(torch.randn(4, 256) * 0.7**stage)
  z, weight = draw(1, 4, 512), draw(1, 4, 512)
  x = tensor(z, grad=True)
  out, loss, codes = module(x.transpose(1, 2))
  out = out.transpose(1, 2)
  books = [[numpy(part.embedding.weight) for part in layer] for layer in layers]
  through = numpy(torch.autograd.grad((out * tensor(weight)).sum(), x, retain_graph=True)[0])
  pull = numpy(torch.autograd.grad(loss, x, retain_graph=True)[0])
  parts = [part.embedding.weight for layer in layers for part in layer]
  to_books = [numpy(g) for g in torch.autograd.grad(loss, parts)]
  codes = np.stack([numpy(code) for code in codes], axis=-1)[None]
  cases["groups"] = {
    "z": z,
    "weight": weight,
    "codebooks": np.stack(books, axis=1),
    "codes": codes,
    "z_q": numpy(out),
    "loss": numpy(loss),
    "through": through,
    "pull": pull,
    "to_codebooks": np.stack(to_books).reshape(2, 2, 4, 256).swapaxes(0, 1),
    "embedded": numpy(module.embed(tensor(codes))).swapaxes(1, 2),
  }

  sys.modules["languagecodec_encoder"] = types.ModuleType("languagecodec_encoder")
  path = sources / "languagecodec/languagecodec_encoder/quantization/core_vq.py"
  import typing

  silent = types.SimpleNamespace(broadcast_tensors=lambda buffers: None)
  names = {"EuclideanCodebook", "VectorQuantization", "LanguageVectorQuantization"}
  names |= {"default", "ema_inplace", "laplace_smoothing", "uniform_init", "sample_vectors"}
  scope = {"torch": torch, "nn": nn, "F": nn.functional, "tp": typing, "distrib": silent}
  scope |= {"rearrange": einops.rearrange, "repeat": einops.repeat}
  scope = definitions(path, names, scope)
  module = scope["LanguageVectorQuantization"](
    num_quantizers=5, dim=7, codebook_size=8, kmeans_init=False, threshold_ema_dead_code=0
  )
  edges = [0, 7 // 3, 2 * 7 // 3, 7]
  books = [layer._codebook for layer in module.layers]
  for stage, book in enumerate(books):
    entries = torch.randn(8, 7) * 0.7**stage
    if stage < 3:
      band = torch.zeros(7)
      band[edges[stage] : edges[stage + 1]] = 1
      entries = entries * band
    book.embed.copy_(entries)
    book.embed_avg.copy_(entries)
    book.cluster_size.fill_(1)
  module.train()
  found = {"codebook": np.stack([numpy(book.embed) for book in books])}
  for step in range(3):
    z, weight = draw(2, 9, 7), draw(2, 9, 7)
    x = tensor(z, grad=True)
    out, codes, losses = module(x.transpose(1, 2))
    out = out.transpose(1, 2)
    through = numpy(torch.autograd.grad((out * tensor(weight)).sum(), x, retain_graph=True)[0])
    pull = numpy(torch.autograd.grad(losses.sum(), x)[0])
    codes = np.moveaxis(numpy(codes), 0, -1)
    found |= {f"z{step}": z, f"weight{step}": weight, f"codes{step}": codes}
    found |= {f"z_q{step}": numpy(out), f"loss{step}": numpy(losses)[:, 0]}
    found |= {f"through{step}": through, f"pull{step}": pull}
  found["counts"] = np.stack([numpy(book.cluster_size) for book in books])
  found["sums"] = np.stack([numpy(book.embed_avg) for book in books])
  found["moved"] = np.stack([numpy(book.embed) for book in books])
  cases["bands"] = found
  return cases


def multiscale_case(sources):
  path = sources / "VAR/models/quant.py"
  alone = types.SimpleNamespace(initialized=lambda: False, get_world_size=lambda: 1)
  import typing

  scope = {"torch": torch, "nn": nn, "F": nn.functional, "np": np, "dist": alone}
  scope |= {"tdist": alone, **{name: getattr(typing, name) for name in typing.__all__}}
  names = {"VectorQuantizer2", "Phi", "PhiShared", "PhiPartiallyShared", "PhiNonShared"}
  scope = definitions(path, names, scope)
  scales = (1, 2, 3, 4, 5)
  module = scope["VectorQuantizer2"](16, 4, False, v_patch_nums=scales)
  module.embedding.weight.data.copy_(torch.randn(16, 4))
  z, weight = draw(2, 5, 5, 4, scale=1.5), draw(2, 5, 5, 4)
  x = tensor(z, grad=True)
  picture = x.permute(0, 3, 1, 2)
  out, _, loss = module(picture)
  out = out.permute(0, 2, 3, 1)
  codes = torch.cat(module.f_to_idxBl_or_fhat(picture, to_fhat=False), dim=1)
  partial = module.f_to_idxBl_or_fhat(picture, to_fhat=True)
  layers = module.quant_resi.qresi_ls
  kernels, biases = [m.weight for m in layers], [m.bias for m in layers]
  parts = (module.embedding.weight, *kernels, *biases)
  to_z, to_codebook, *rest = backward(x, out, loss, weight, parts)
  order = (2, 3, 1, 0)
  return {
    "z": z,
    "weight": weight,
    "codebook": numpy(module.embedding.weight),
    "kernels": np.stack([numpy(k).transpose(order) for k in kernels]),
    "biases": np.stack([numpy(b) for b in biases]),
    "codes": numpy(codes),
    "z_q": numpy(out),
    "loss": numpy(loss),
    "to_z": to_z,
    "to_codebook": to_codebook,
    "to_kernels": np.stack([k.transpose(order) for k in rest[:4]]),
    "to_biases": np.stack(rest[4:]),
    "after_three": numpy(partial[2]).transpose(0, 2, 3, 1),
  }


def scalar_cases(sources):
  cases = {}
  module = vqp.FSQ(levels=[8, 5, 5, 4], dim=6)
  z, weight = draw(2, 7, 6, scale=2), draw(2, 7, 6)
  x = tensor(z, grad=True)
  out, codes = module(x)
  ends = (module.project_in, module.project_out)
  params = [p for end in ends for p in (end.weight, end.bias)]
  to_z, *to_ends = backward(x, out, 0.0, weight, params)
  cases["fsq"] = {"z": z, "weight": weight, "codes": numpy(codes), "z_q": numpy(out), "to_z": to_z}
  for name, value, gradient in zip(("in", "in_b", "out", "out_b"), params, to_ends, strict=True):
    cases["fsq"] |= {name: numpy(value).T, f"to_{name}": gradient.T}

  module = vqp.ResidualFSQ(dim=3, levels=[5, 4, 3], num_quantizers=3)
  module.eval()
  z, weight = draw(2, 7, 3), draw(2, 7, 3)
  x = tensor(z, grad=True)
  out, codes = module(x)
  (to_z,) = backward(x, out, 0.0, weight)
  cases["residual_fsq"] = {"z": z, "weight": weight, "codes": numpy(codes)}
  cases["residual_fsq"] |= {"z_q": numpy(out), "to_z": to_z}

  module = vqp.LFQ(dim=5, codebook_size=32, commitment_loss_weight=0.25, entropy_loss_weight=0.1)
  module.train()
  z, weight = draw(2, 7, 5), draw(2, 7, 5)
  mask = np.arange(7) < np.array([[7], [4]])
  for name, chosen in (("lfq", None), ("lfq_masked", tensor(mask))):
    x = tensor(z, grad=True)
    (out, codes, loss), parts = module(
      x, inv_temperature=1.0, return_loss_breakdown=True, mask=chosen
    )
    (to_z,) = backward(x, out, loss, weight)
    cases[name] = {"z": z, "mask": mask, "weight": weight, "codes": numpy(codes)}
    cases[name] |= {"z_q": numpy(out), "loss": numpy(loss), "to_z": to_z}
    cases[name] |= {"of_row": numpy(parts[0]), "of_batch": numpy(parts[1])}

  module = vqp.ResidualLFQ(
    dim=5, codebook_size=32, num_quantizers=3, commitment_loss_weight=1.0, entropy_loss_weight=0.0
  )
  module.train()
  z, weight = draw(2, 7, 5), draw(2, 7, 5)
  x = tensor(z, grad=True)
  out, codes, losses = module(x)
  through = numpy(torch.autograd.grad((out * tensor(weight)).sum(), x, retain_graph=True)[0])
  pull = numpy(torch.autograd.grad(losses.sum(), x)[0])
  cases["residual_lfq"] = {"z": z, "weight": weight, "codes": numpy(codes), "z_q": numpy(out)}
  cases["residual_lfq"] |= {"loss": numpy(losses), "through": through, "pull": pull}

  path = sources / "bsq-vit/transcoder/models/quantizer/bsq.py"
  scope = {"torch": torch, "nn": nn, "rearrange": einops.rearrange, "reduce": einops.reduce}
  scope["Function"] = torch.autograd.Function
  names = {"BinarySphericalQuantizer", "DifferentiableEntropyFunction", "codebook_entropy"}
  scope = definitions(path, names, scope)
  module = scope["BinarySphericalQuantizer"](
    embed_dim=6,
    beta=0.25,
    gamma0=1.0,
    gamma=1.0,
    zeta=0.1,
    input_format="blc",
    group_size=6,
    persample_entropy_compute="group",
    l2_norm=True,
  )
  z, weight = draw(2, 7, 6), draw(2, 7, 6)
  x = tensor(z, grad=True)
  point = nn.functional.normalize(x, dim=-1)
  out, loss, found = module(point)
  through = numpy(torch.autograd.grad((out * tensor(weight)).sum(), x, retain_graph=True)[0])
  pull = numpy(torch.autograd.grad(loss, x)[0])
  cases["bsq"] = {"z": z, "weight": weight, "codes": numpy(found["indices"]), "z_q": numpy(out)}
  cases["bsq"] |= {"loss": numpy(loss), "through": through, "pull": pull}
  cases["bsq"] |= {"of_batch": numpy(found["H"])}

  import jax
  import jax.numpy as jnp

  path = sources / "latent_quantization/disentangle/latents/quantized.py"
  scope = definitions(path, {"quantize"}, {"jax": jax, "jnp": jnp}, inside="QuantizedLatent")
  quantize = getattr(scope["quantize"], "__func__", scope["quantize"])
  z, values = draw(4, 6), draw(6, 5)
  found = [[quantize(z[i, j], values[j]) for j in range(6)] for i in range(4)]

  def losses(z, values):
    q = jnp.stack(
      [jnp.stack([quantize(z[i, j], values[j])[0] for j in range(6)]) for i in range(4)]
    )
    stop = jax.lax.stop_gradient
    return 0.01 * jnp.mean((stop(z) - q) ** 2) + 0.01 * jnp.mean((z - stop(q)) ** 2)

  to_z, to_values = jax.grad(losses, argnums=(0, 1))(jnp.asarray(z), jnp.asarray(values))
  cases["latent"] = {"z": z, "values": values, "loss": np.asarray(losses(z, values))}
  cases["latent"] |= {"codes": np.int32([[int(q[1]) for q in row] for row in found])}
  cases["latent"] |= {"z_q": np.float32([[float(q[0]) for q in row] for row in found])}
  cases["latent"] |= {"to_z": np.asarray(to_z), "to_values": np.asarray(to_values)}
  return cases


def table_cases(sources):
  cases = {}
  scope = {"torch": torch, "F": nn.functional, "rearrange": einops.rearrange}
  path = next((sources / "VQGAN-LC/vqgan-gpt-lc").rglob("models_vq.py"))
  quantize = definitions(path, {"quantize"}, scope, inside="VQModel")["quantize"]
  source, projection = draw(40, 12), nn.Linear(12, 4)
  nn.init.normal_(projection.weight, std=4**-0.5)
  owner = types.SimpleNamespace(
    e_dim=4,
    args=types.SimpleNamespace(use_cblinear=1),
    codebook_projection=projection,
    tok_embeddings=types.SimpleNamespace(weight=tensor(source)),
    quantize_type="default",
    remap=None,
    sane_index_shape=False,
  )
  z, weight = draw(2, 3, 5, 4), draw(2, 3, 5, 4)
  x = tensor(z, grad=True)
  out, loss, (_, _, codes) = quantize(owner, x.permute(0, 3, 1, 2))
  out = out.permute(0, 2, 3, 1)
  to_z, to_kernel, to_bias = backward(x, out, loss, weight, (projection.weight, projection.bias))
  cases["transfer"] = {
    "z": z,
    "weight": weight,
    "source": source,
    "kernel": numpy(projection.weight).T,
    "bias": numpy(projection.bias),
    "codes": numpy(codes).reshape(2, 3, 5),
    "z_q": numpy(out),
    "loss": numpy(loss),
    "to_z": to_z,
    "to_kernel": to_kernel.T,
    "to_bias": to_bias,
  }

  sys.path.insert(0, str(sources / "discrete_key_value_bottleneck"))
  from key_value_bottleneck.core import KeyValueBottleneck

  module = KeyValueBottleneck(3, 8, 4, 5, return_values_only=False)
  found = {"keys": numpy(module.keys), "values": numpy(module.values)}
  module.cluster_size.fill_(1)
  for step in range(3):
    heads = draw(10, 3, 4)
    _, _, codes, _, _ = module(tensor(heads)[:, :, None])
    found |= {f"heads{step}": heads, f"codes{step}": numpy(codes)[:, :, 0, 0, 0]}
  found |= {"counts": numpy(module.cluster_size), "sums": numpy(module.keys_avg)}
  found["moved"] = numpy(module.keys)
  module.freeze_keys()
  heads = draw(6, 3, 4)
  module(tensor(heads)[:, :, None])
  used = numpy(module.cluster_size_counter) > 0
  module.deactivate_counts()
  heads = draw(10, 3, 4)
  values, _, codes, _, _ = module(tensor(heads)[:, :, None])
  weight = draw(10, 5)
  logits = values.mean(dim=1)[:, 0, 0]
  to_values = torch.autograd.grad((logits * tensor(weight)).sum(), module.values)[0]
  found |= {"used": used, "heads": heads, "codes": numpy(codes)[:, :, 0, 0, 0], "weight": weight}
  found |= {"z_q": numpy(logits), "to_values": numpy(to_values)}
  cases["key_value"] = found

  path = sources / "codebook-features/codebook_features/models.py"
  scope = definitions(path, {"BaseSnapFunction", "InnerProductSnapFunction"}, {"torch": torch})
  snap, base = scope["InnerProductSnapFunction"], scope["BaseSnapFunction"]
  base.loss = "aeloss"
  hooks = {"cosine": False, "keep_k_codes": True, "disable_for_tkns": "all"}
  hooks |= {"disable_codes": [], "disable_topk": 0, "disable_sim_idx": []}
  norm = nn.LayerNorm(6)
  norm.weight.data.copy_(1 + 0.1 * torch.randn(6))
  norm.bias.data.copy_(0.1 * torch.randn(6))
  z, weight, table = draw(2, 7, 6), draw(2, 7, 6), draw(16, 6)
  found = {"z": z, "weight": weight, "codebook": table}
  found |= {"scale": numpy(norm.weight), "bias": numpy(norm.bias)}
  for number in (1, 4):
    x, book = tensor(z, grad=True), tensor(table, grad=True)
    out, codes = snap.apply(norm(x), book, number, hooks)
    to_z, to_book, to_scale = backward(x, out, 0.0, weight, (book, norm.weight))
    found |= {f"codes{number}": numpy(codes), f"z_q{number}": numpy(out), f"to_z{number}": to_z}
    found |= {f"to_codebook{number}": to_book, f"to_scale{number}": to_scale}
  switched = hooks | {"disable_codes": sorted(set(found["codes4"].reshape(-1)[:5].tolist()))}
  _, codes = snap.apply(norm(tensor(z)), tensor(table), 4, switched)
  found |= {"disabled": np.int32(switched["disable_codes"]), "codes_disabled": numpy(codes)}
  cases["features"] = found
  return cases


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--sources", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "bottlenecks.npz")
  options = parser.parse_args()
  torch.manual_seed(0)
  cases = vector_cases() | residual_cases(options.sources)
  cases |= {"multiscale": multiscale_case(options.sources)}
  cases |= scalar_cases(options.sources) | table_cases(options.sources)
  arrays = {f"{case}/{name}": x for case, found in cases.items() for name, x in found.items()}
  narrow = {name: x.astype(np.int32) if x.dtype == np.int64 else x for name, x in arrays.items()}
  np.savez_compressed(options.out, **narrow)
  print(f"{len(narrow)} arrays, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
  main()
