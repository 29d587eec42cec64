"""Codecs of pictures in directories of ours: `config.json` and `model.safetensors`."""

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save as serialize

from jaxcodec import atomic
from jaxcodec.entropy import latents
from jaxcodec.errors import CodecError
from jaxcodec.fingerprint import module_config
from jaxcodec.hub import compressai, mlic
from jaxcodec.hub.checkpoint import Tensors, built
from jaxcodec.image.autoregressive import JointAutoregressive
from jaxcodec.image.channelwise import ChannelWise
from jaxcodec.image.checkerboard import Checkerboard
from jaxcodec.image.elic import Elic
from jaxcodec.image.factorized import FactorizedPrior
from jaxcodec.image.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from jaxcodec.image.latent_codec import LatentCodec, latent_codec
from jaxcodec.image.mlic import Mlic
from jaxcodec.image.picture_codec import PictureCodec

_FORMAT, _VERSION = "jaxcodec", 1
SYSTEMS: dict[str, type[PictureCodec]] = {
  "channel-wise": ChannelWise,
  "checkerboard": Checkerboard,
  "elic": Elic,
  "factorized-prior": FactorizedPrior,
  "joint-autoregressive": JointAutoregressive,
  "mean-scale-hyperprior": MeanScaleHyperprior,
  "mlic": Mlic,
  "scale-hyperprior": ScaleHyperprior,
}


def save_picture(codec: LatentCodec, directory: pathlib.Path, dtype: Any = np.float32) -> None:
  """Writes a codec, each file whole or not at all; `dtype` is that of its weights."""
  directory.mkdir(parents=True, exist_ok=True)
  config = {"format": _FORMAT, "version": _VERSION} | description(codec.name, codec.module)
  flat = flatten_dict(codec.params, sep="/")
  arrays = {f"params/{path}": np.asarray(leaf, dtype, order="C") for path, leaf in flat.items()}
  arrays["tables"] = np.ascontiguousarray(codec.tables, np.int32)
  atomic.write(directory / "model.safetensors", serialize(arrays))
  atomic.write(directory / "config.json", f"{json.dumps(config, indent=2)}\n".encode())


def description(name: str, module: PictureCodec) -> dict[str, Any]:
  """What rebuilds a codec's module, as JSON values; `described` reads it."""
  system = next(system for system, cls in SYSTEMS.items() if type(module) is cls)
  return {"name": name, "system": system, "module": module_config(module)}


def described(config: dict[str, Any], path: pathlib.Path) -> tuple[str, PictureCodec, Any]:
  """A codec's name, its module and the shapes of its parameters.

  Raises:
    CodecError: if `config`, of `path`, describes none.
  """
  try:
    module = built(SYSTEMS[config["system"]], dict(config["module"]))
    quality = jax.ShapeDtypeStruct((), jnp.float32) if module.levels else None
    example = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    init = functools.partial(module.init, key=None)
    shapes = jax.eval_shape(init, jax.random.key(0), example, quality=quality)["params"]
    return str(config["name"]), module, shapes
  except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
    raise CodecError(f"{path / 'config.json'} does not describe a codec: {error}") from None


def load_picture(directory: pathlib.Path, config: dict[str, Any]) -> LatentCodec:
  """The codec that `save_picture` wrote; `config` is what its `config.json` holds.

  Raises:
    CodecError: if it is damaged or was written by a newer version.
  """
  if config.get("version") != _VERSION:
    raise CodecError(f"{directory} has version {config.get('version')}, this reader {_VERSION}")
  name, module, shapes = described(config, directory)
  tensors = Tensors(directory)
  flat = {
    path: jnp.asarray(tensors.take(f"params/{path}", leaf.shape, leaf.dtype))
    for path, leaf in flatten_dict(shapes, sep="/").items()
  }
  channels = len(flat["entropy_bottleneck/quantiles"])
  tables = tensors.take("tables", (channels, latents.SIZE + 1), np.int32)
  tensors.finish()
  rising = (np.diff(tables.astype(np.int64), axis=1) > 0).all()
  if not rising or tables[:, 0].any() or (tables[:, -1] != 1 << latents.PRECISION).any():
    raise CodecError(f"{tensors.path} holds tables that do not rise from 0 to 2^24")
  return LatentCodec(module=module, params=unflatten_dict(flat, sep="/"), tables=tables, name=name)


def of_state_dict(content: Mapping[str, np.ndarray], path: pathlib.Path, name: str) -> LatentCodec:
  """A codec from CompressAI's `state_dict`, or that of MLIC++, in the file `path`.

  Raises:
    CodecError: as `compressai.read_compressai`.
  """
  arrays = compressai.renamed(content)
  read = mlic.read_mlic if mlic.is_mlic(arrays) else compressai.read_compressai
  module, params = read(Tensors(path, arrays), arrays)
  return latent_codec(module, params, name)
