"""Our own codecs: directories of `config.json`, `model.safetensors` or an Orbax checkpoint, and
what `learned_prior` adds; or one safetensors file whose metadata hold the configuration."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save as serialize

from jaxcodec import atomic
from jaxcodec.audio.dac import Dac
from jaxcodec.audio.dm_codec import DmCodec
from jaxcodec.audio.encodec import Encodec
from jaxcodec.audio.hifi_codec import HiFiCodec
from jaxcodec.audio.language_codec import LanguageCodec
from jaxcodec.audio.lyra import Lyra
from jaxcodec.audio.lyra_exact import LyraExact
from jaxcodec.audio.mimi import Mimi
from jaxcodec.audio.semanticodec import SemantiCodec
from jaxcodec.audio.wavtokenizer import WavTokenizer
from jaxcodec.codec import Codec, CodecModule
from jaxcodec.errors import CodecError
from jaxcodec.fingerprint import module_config
from jaxcodec.hub import learned_prior, orbax as orbax_lib, picture
from jaxcodec.hub.checkpoint import Tensors, built, read_config
from jaxcodec.image.latent_codec import LatentCodec
from jaxcodec.image.vqgan import Vqgan

_FORMAT = "jaxcodec"
_VERSION = 1
_SYSTEMS: dict[str, type[CodecModule]] = {
  "dac": Dac,
  "dm-codec": DmCodec,
  "encodec": Encodec,
  "hifi-codec": HiFiCodec,
  "language-codec": LanguageCodec,
  "lyra": Lyra,
  "lyra-exact": LyraExact,
  "mimi": Mimi,
  "semanticodec": SemantiCodec,
  "vqgan": Vqgan,
  "wavtokenizer": WavTokenizer,
}


def save(
  codec: Codec | LatentCodec,
  directory: str | pathlib.Path,
  *,
  dtype: Any = jnp.float32,
  orbax: bool = False,
) -> None:
  """Writes a codec as `config.json` and `model.safetensors`, made anew if they are there.

  Each file is there whole or not at all, whenever the process is killed.

  Args:
    directory: made if need be.
    dtype: float type of the stored weights; float16 halves the file, `load` gives float32 again.
      Integers are stored as they are.
    orbax: whether to write the weights as an Orbax checkpoint in `orbax/`, a tree of `params` and
      `prior`, and not as `model.safetensors`.
  """
  directory = pathlib.Path(directory)
  if isinstance(codec, LatentCodec):
    if orbax:
      raise ValueError("a codec of pictures is saved in safetensors")
    picture.save_picture(codec, directory, dtype)
    return
  directory.mkdir(parents=True, exist_ok=True)
  config = {"format": _FORMAT, "version": _VERSION} | description(codec.name, codec.module)
  arrays = _arrays(codec, dtype)
  weights = directory / "model.safetensors"
  if orbax:
    orbax_lib.write_arrays(directory, arrays)
    # What `load` would take first.
    weights.unlink(missing_ok=True)
  else:
    atomic.write(weights, serialize(arrays))
  text = json.dumps(config, indent=2) + "\n"
  atomic.write(directory / "config.json", text.encode())
  if codec.learned is not None:
    learned_prior.save_prior(codec.learned, directory)


def save_file(codec: Codec, path: pathlib.Path, *, dtype: Any = jnp.float32) -> None:
  """Writes a codec as one safetensors file, there whole or not at all; `dtype` as of `save`.

  Raises:
    ValueError: if the codec has a learned prior, which needs a directory.
  """
  if codec.learned is not None:
    raise ValueError(f"codec {codec.name} has a learned prior: save it to a directory")
  config = {"format": _FORMAT, "version": _VERSION} | description(codec.name, codec.module)
  atomic.write(path, serialize(_arrays(codec, dtype), {_FORMAT: json.dumps(config)}))


def _arrays(codec: Codec, dtype: Any) -> dict[str, np.ndarray]:
  flat = {f"params/{k}": v for k, v in flatten_dict(codec.params, sep="/").items()}
  arrays = {
    k: np.asarray(v, dtype if v.dtype == np.float32 else v.dtype, order="C")
    for k, v in flat.items()
  }
  return arrays | {"prior": np.ascontiguousarray(np.asarray(codec.prior, np.int32))}


def load_file(path: pathlib.Path) -> Codec:
  """A codec that `save_file` wrote.

  Raises:
    CodecError: if the file is damaged, another program's, or of a newer version.
  """
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      config = json.loads((file.metadata() or {}).get(_FORMAT, "null"))
  except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
    raise CodecError(f"{path} is not a safetensors file of a codec: {error}") from None
  if not isinstance(config, dict) or not is_native(config):
    raise CodecError(f"{path} holds no codec of ours: its metadata have no {_FORMAT!r}")
  name, module, shapes = _checked_description(config, path)
  params, prior = _weights(module, shapes, Tensors(path.parent, name=path.name))
  return Codec(module=module, params=params, prior=prior, name=name)


def description(name: str, module: CodecModule) -> dict[str, Any]:
  """What rebuilds a codec's module, as JSON values; `described` reads it."""
  system = next(system for system, cls in _SYSTEMS.items() if type(module) is cls)
  return {"name": name, "system": system, "module": module_config(module)}


def described(config: dict[str, Any], path: pathlib.Path) -> tuple[str, Any, Any]:
  """A codec's name, its module and the shapes of its parameters.

  Raises:
    CodecError: if `config`, of `path`, describes none.
  """
  try:
    name, system, fields = str(config["name"]), config["system"], dict(config["module"])
    if system not in _SYSTEMS:
      raise CodecError(f"{path} holds a codec of an unknown system, {system!r}")
    module = built(_SYSTEMS[system], fields)
    example = jax.ShapeDtypeStruct((1, *module.smallest), jnp.float32)
    return name, module, jax.eval_shape(module.init, jax.random.key(0), example)["params"]
  except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
    path = path / "config.json" if path.is_dir() else path
    raise CodecError(f"{path} does not describe a codec: {error}") from None


def _prior_shape(module: CodecModule) -> tuple[int, int]:
  return len(module.codebook_sizes), max(module.codebook_sizes)


def is_native(config: dict[str, Any]) -> bool:
  return config.get("format") == _FORMAT


def load_native(directory: pathlib.Path) -> Codec:
  """A codec that `save` wrote.

  Raises:
    CodecError: if the directory is damaged or was written by a newer version.
  """
  name, module, shapes = _checked_description(read_config(directory), directory)
  leaves, prior_shape = flatten_dict(shapes, sep="/"), _prior_shape(module)
  if (directory / orbax_lib.NAME).is_dir() and not (directory / "model.safetensors").exists():
    needed = {f"params/{path}": leaf.shape for path, leaf in leaves.items()}
    arrays = orbax_lib.read_arrays(directory, needed | {"prior": prior_shape})
    tensors = Tensors(directory / orbax_lib.NAME, arrays)
  else:
    tensors = Tensors(directory)
  params, prior = _weights(module, shapes, tensors)
  learned = (
    learned_prior.load_prior(directory, params) if learned_prior.is_there(directory) else None
  )
  return Codec(module=module, params=params, prior=prior, name=name, learned=learned)


def _checked_description(config: dict[str, Any], path: pathlib.Path):
  if config.get("version") != _VERSION:
    raise CodecError(f"{path} has version {config.get('version')}, this reader {_VERSION}")
  return described(config, path)


def _weights(module: CodecModule, shapes, tensors: Tensors):
  """Parameters and prior, all that `tensors` may hold."""
  flat = {
    path: jnp.asarray(tensors.take(f"params/{path}", leaf.shape, leaf.dtype))
    for path, leaf in flatten_dict(shapes, sep="/").items()
  }
  prior = jnp.asarray(tensors.take("prior", _prior_shape(module), np.int32))
  tensors.finish()
  return unflatten_dict(flat, sep="/"), prior
