"""Reads SemantiCodec as its authors publish it: `encoder.ckpt` and `decoder.ckpt` of one token rate
in a directory, beside one `codebook_*.npy` of semantic centroids, at any depth.

Nothing says how large the networks are but the weights. The codebook's file is named by half of the
vocabulary that its rate is given for, so the vocabulary is the array's rows.
"""

import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcodec.audio.semanticodec import SemantiCodec
from jaxcodec.codec import Codec
from jaxcodec.decoders.hifigan import HifiGanConfig
from jaxcodec.decoders.latent_diffusion import LatentDiffusionConfig
from jaxcodec.encoders.mae import MaeConfig
from jaxcodec.errors import CodecError
from jaxcodec.hub import semanticodec_unet
from jaxcodec.hub.authors import flat_arrays
from jaxcodec.hub.checkpoint import Tensors
from jaxcodec.hub.semanticodec_unet import Reader
from jaxcodec.hub.torch_archive import read_torch
from jaxcodec.layers.vqgan import VqganConfig

_RATE = 16_000
_NAMES = "encoder.ckpt", "decoder.ckpt"
_MAE, _UNET = "audiomae.model.", "model.diffusion_model."
_VAE, _VOCODER = "first_stage_model.", "first_stage_model.vocoder."
# As the program fixes them; kernels of a rate's width and an odd number more begin with a zero.
_STRIDES, _DILATIONS = (5, 4, 2, 2, 2), (1, 3, 5)


def is_semanticodec(directory: pathlib.Path) -> bool:
  return all((directory / name).is_file() for name in _NAMES)


def load_semanticodec(
  directory: pathlib.Path, name: str, *, heads: tuple[int, int] = (64, 32)
) -> Codec:
  """A codec from a directory of both checkpoints and a codebook.

  Args:
    heads: widths of attention's heads in AudioMAE and in the diffusion network, which no weight
      tells.

  Raises:
    CodecError: if a file is missing or there are several codebooks, or a weight is missing, extra
      or of the wrong shape; the message names it.
  """
  centroids = _centroids(directory)
  encoder = _tensors(directory / "encoder.ckpt", (_MAE, "encoder.", "encoder_", "quantizer."))
  decoder = _tensors(directory / "decoder.ckpt", (_UNET, _VAE, "scale_factor"))
  module = _module(centroids, encoder, decoder, heads)
  params = {
    "encoder": _mae(Reader(encoder, _MAE), module.mae),
    "quantizer": _quantizer(encoder, module, centroids),
    "decoder": _decoder(decoder, module.diffusion),
  }
  encoder.finish()
  decoder.finish()
  prior = jnp.ones((2, max(module.codebook_sizes)), jnp.int32)
  return Codec(module=module, params=params, prior=prior, name=name)


def _centroids(directory: pathlib.Path) -> np.ndarray:
  found = sorted(directory.rglob("codebook_*.npy"))
  if len(found) != 1:
    raise CodecError(f"{directory} holds {len(found)} files codebook_*.npy: leave one")
  try:
    array = np.load(found[0], allow_pickle=False)
  except (OSError, ValueError) as error:
    raise CodecError(f"{found[0]} cannot be read: {error}") from None
  good = array.ndim == 2 and len(array) > 1 and array.dtype.kind == "f"
  if not good or not np.isfinite(array).all():
    raise CodecError(f"{found[0]} holds no centroids [V, D] but {array.dtype}{list(array.shape)}")
  return array.astype(np.float32)


def _tensors(path: pathlib.Path, wanted: tuple[str, ...]) -> Tensors:
  tensors = Tensors(path, dict(flat_arrays(read_torch(path))))
  tensors.keep(wanted)
  return tensors


def _count(tensors: Tensors, pattern: str) -> int:
  """How many names there are, from 0 on."""
  count = 0
  while pattern.format(count) in tensors:
    count += 1
  return count


def _module(centroids, encoder: Tensors, decoder: Tensors, heads) -> SemantiCodec:
  def shape(tensors: Tensors, name: str, axes: int) -> tuple[int, ...]:
    if name not in tensors or len(tensors.shape(name)) != axes:
      raise CodecError(f"{tensors.path} lacks the weight {name}")
    return tensors.shape(name)

  width, _, patch, _ = shape(encoder, f"{_MAE}patch_embed.proj.weight", 4)
  # Windows are eight times as long as high, in patches.
  bands = math.isqrt((shape(encoder, f"{_MAE}pos_embed", 3)[1] - 1) // 8)
  layers = _count(encoder, _MAE + "blocks.{}.norm1.weight")
  hidden = shape(encoder, f"{_MAE}blocks.0.mlp.fc1.weight", 2)[0]
  mae = MaeConfig(
    frames=8 * bands * patch,
    bands=bands * patch,
    patch=patch,
    width=width,
    num_heads=max(1, width // heads[0]),
    hidden=hidden,
    num_layers=layers,
    taps=max(1, layers // 4),
  )
  size = shape(encoder, "quantizer._codebook.embed", 3)[1]
  stack = centroids.shape[1] // width
  hop = mae.frames * 160 * stack // math.prod(mae.grid)
  rate = math.log2(size) + math.log2(len(centroids))
  kernels = [shape(decoder, f"{_VOCODER}ups.{i}.weight", 3)[2] for i in range(len(_STRIDES))]
  blocks = _count(decoder, _VOCODER + "resblocks.{}.convs1.0.weight") // len(_STRIDES)
  names = [f"{_VOCODER}resblocks.{i}.convs1.0.weight" for i in range(blocks)]
  vocoder = HifiGanConfig(
    width=shape(decoder, f"{_VOCODER}conv_pre.weight", 3)[0],
    strides=_STRIDES,
    kernel_sizes=tuple(k + (k - s) % 2 for k, s in zip(kernels, _STRIDES, strict=True)),
    block_kernels=tuple(shape(decoder, name, 3)[2] for name in names),
    dilations=_DILATIONS,
  )
  levels = _count(decoder, _VAE + "decoder.up.{}.block.0.norm1.weight")
  first = shape(decoder, f"{_VAE}decoder.conv_out.weight", 4)[1]
  wide = [shape(decoder, f"{_VAE}decoder.up.{i}.block.0.conv1.weight", 4) for i in range(levels)]
  vae = VqganConfig(
    width=first,
    multipliers=tuple(kernel[0] // first for kernel in wide),
    num_blocks=_count(decoder, _VAE + "decoder.up.0.block.{}.norm1.weight") - 1,
    attention_levels=(),
    latent_width=shape(decoder, f"{_VAE}decoder.conv_in.weight", 4)[1],
  )
  unet = semanticodec_unet.config_of(decoder, _UNET, heads[1])
  context = shape(decoder, semanticodec_unet.context_weight(_UNET), 2)[1]
  return SemantiCodec(
    sample_rate=_RATE,
    bitrates=(math.ceil(rate * _RATE / hop),),
    num_codebooks=2,
    codebook_size=size,
    semantic_size=len(centroids),
    mae=mae,
    stack=stack,
    lstm_layers=_count(encoder, "encoder.bias_ih_l{}"),
    diffusion=LatentDiffusionConfig(
      frames=mae.frames,
      bands=shape(decoder, f"{_VOCODER}conv_pre.weight", 3)[1],
      vae=vae,
      unet=unet,
      vocoder=vocoder,
      position_width=context - 2 * centroids.shape[1],
    ),
  )


def _mae(read: Reader, config: MaeConfig) -> dict[str, Any]:
  width, patch = config.width, config.patch
  read.ignore(("mask_token", "decoder_"))
  kernel = read.take("patch_embed.proj.weight", (width, 1, patch, patch))
  count = math.prod(config.grid) + 1
  params: dict[str, Any] = {
    "embedding": {
      "kernel": kernel.reshape(width, -1).T,
      "bias": read.take("patch_embed.proj.bias", (width,)),
    },
    "class_token": read.take("cls_token", (1, 1, width)),
    "positions": read.take("pos_embed", (1, count, width))[0],
    "norm": read.norm("norm", width),
  }
  for i in range(config.num_layers):
    name = f"blocks.{i}."
    params[f"layers_{i}"] = {
      "attention_norm": read.norm(f"{name}norm1", width),
      "qkv": read.dense(f"{name}attn.qkv", width, 3 * width),
      "out": read.dense(f"{name}attn.proj", width, width),
      "mlp_norm": read.norm(f"{name}norm2", width),
      "up": read.dense(f"{name}mlp.fc1", width, config.hidden),
      "down": read.dense(f"{name}mlp.fc2", config.hidden, width),
    }
  return params


def _quantizer(tensors: Tensors, module: SemantiCodec, centroids: np.ndarray) -> dict[str, Any]:
  width, read = module.mae.width * module.stack, Reader(tensors, "")
  if centroids.shape[1] != width or module.stack not in (1, 2, 4):
    raise CodecError(f"centroids of {centroids.shape[1]} for patches of {module.mae.width}")
  read.ignore(("quantizer._codebook.initted", "quantizer._codebook.cluster_size"))
  read.ignore(("quantizer._codebook.embed_avg",))
  lstm, hidden = {}, 2 * width
  for i in range(module.lstm_layers):
    inputs = 2 * hidden if i else hidden
    for ours, theirs in (("", ""), ("_back", "_reverse")):
      end = f"l{i}{theirs}"
      shapes = {"ih": (4 * hidden, inputs), "hh": (4 * hidden, hidden)}
      both = {k: read.take(f"encoder.weight_{k}_{end}", shape) for k, shape in shapes.items()}
      bias = sum(read.take(f"encoder.bias_{k}_{end}", (4 * hidden,)) for k in shapes)
      lstm[f"input_kernel_{i}{ours}"] = jnp.asarray(both["ih"].T)
      lstm[f"recurrent_kernel_{i}{ours}"] = jnp.asarray(both["hh"].T)
      lstm[f"bias_{i}{ours}"] = jnp.asarray(bias)
  book = read.take("quantizer._codebook.embed", (1, module.codebook_size, width))
  return {
    "centroids": jnp.asarray(centroids),
    "lstm": lstm,
    "project": read.dense("encoder_output_linear", 2 * hidden, width, bias=False),
    "acoustic": {"codebooks": jnp.asarray(book)},
  }


def _decoder(tensors: Tensors, config: LatentDiffusionConfig) -> dict[str, Any]:
  read = Reader(tensors, "")
  read.ignore((f"{_VAE}encoder.", f"{_VAE}quant_conv."))
  scale = read.take("scale_factor", ())
  return {
    "vae": _vae(Reader(tensors, f"{_VAE}decoder."), Reader(tensors, _VAE), config.vae),
    "unet": semanticodec_unet.unet(Reader(tensors, _UNET), config),
    "vocoder": _vocoder(Reader(tensors, _VOCODER), config),
    "latent_scale": jnp.asarray(scale),
  }


def _vae(read: Reader, outer: Reader, config: VqganConfig) -> dict[str, Any]:
  widths, z = config.widths, config.latent_width
  top = widths[-1]

  def block(name: str, features_in: int, features_out: int):
    found = {
      "norm_0": read.norm(f"{name}.norm1", features_in),
      "conv_0": read.conv(f"{name}.conv1", features_in, features_out, 3),
      "norm_1": read.norm(f"{name}.norm2", features_out),
      "conv_1": read.conv(f"{name}.conv2", features_out, features_out, 3),
    }
    if features_in != features_out:
      found["skip"] = read.conv(f"{name}.nin_shortcut", features_in, features_out, 1)
    return found

  params: dict[str, Any] = {
    "project": outer.conv("post_quant_conv", z, z, 1),
    "conv_in": read.conv("conv_in", z, top, 3),
    "middle_0": block("mid.block_1", top, top),
    "middle_attention": {"norm": read.norm("mid.attn_1.norm", top)},
    "middle_1": block("mid.block_2", top, top),
    "norm_out": read.norm("norm_out", widths[0]),
    "conv_out": read.conv("conv_out", widths[0], 1, 3),
  }
  for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "proj_out")):
    params["middle_attention"][ours] = read.pointwise(f"mid.attn_1.{theirs}", top, top)
  before = top
  for level in reversed(range(len(widths))):
    for i in range(config.num_blocks + 1):
      params[f"block_{level}_{i}"] = block(f"up.{level}.block.{i}", before, widths[level])
      before = widths[level]
    if level:
      params[f"up_{level}"] = {"conv": read.conv(f"up.{level}.upsample.conv", before, before, 3)}
  return params


def _vocoder(read: Reader, config: LatentDiffusionConfig) -> dict[str, Any]:
  net, width = config.vocoder, config.vocoder.width
  params: dict[str, Any] = {"conv_in": read.taps("conv_pre", config.bands, width, 7)}
  number = 0
  for i, taps in enumerate(net.kernel_sizes):
    name = f"ups.{i}"
    found = read.tensors.shape(f"{_VOCODER}{name}.weight")[2]
    kernel = read.take(f"{name}.weight", (width, width // 2, found)).transpose(2, 0, 1)
    # PyTorch cuts the lesser half of an odd excess at the left, our layers the larger.
    kernel = np.pad(kernel, ((taps - found, 0), (0, 0), (0, 0)))
    width //= 2
    params[f"up_{i}"] = {"kernel": jnp.asarray(kernel), "bias": read.vector(f"{name}.bias", width)}
    blocks = params[f"blocks_{i}"] = {}
    for j, size in enumerate(net.block_kernels):
      blocks[f"block_{j}"] = {
        f"unit_{u}": {
          f"conv_{c}": read.taps(f"resblocks.{number}.convs{c + 1}.{u}", width, width, size)
          for c in range(2)
        }
        for u in range(len(net.dilations))
      }
      number += 1
  return params | {"conv_out": read.taps("conv_post", width, 1, 7)}
