"""`load`: a codec by the name of a bundled one, by directory, or by Hugging Face repository."""

import pathlib

from jaxcodec.audio.lyra_exact import LyraExact
from jaxcodec.codec import Codec
from jaxcodec.errors import CodecError
from jaxcodec.hub import (
  compressai,
  dac,
  dm_codec,
  encodec,
  foreign,
  hifi_codec,
  lyra,
  mimi,
  mlic,
  native,
  picture,
  run,
  semanticodec,
  vocos,
)
from jaxcodec.hub.checkpoint import read_config
from jaxcodec.hub.torch_archive import read_torch
from jaxcodec.image.latent_codec import LatentCodec

_BUNDLED = pathlib.Path(__file__).parent.parent / "assets" / "codecs"


def bundled() -> tuple[str, ...]:
  """Names of the codecs that come with the package."""
  return tuple(sorted(path.name for path in _BUNDLED.iterdir() if path.is_dir()))


def load(name_or_path: str | pathlib.Path, *, exact: bool = False) -> Codec | LatentCodec:
  """Loads a codec.

  Args:
    name_or_path: a bundled codec's name; a directory that `save` wrote, with `model.safetensors` or
      an Orbax checkpoint; the directory of a training run; a file that `jaxcodec export` wrote; a
      directory of the Hugging Face's layout (`config.json`, `model.safetensors`); a repository of
      theirs, such as "facebook/encodec_24khz"; the `weights.pth` of descript-audio-codec, or a
      directory that holds it; a `state_dict` of a CompressAI picture codec or of MLIC++, as
      `.pth` or `.pth.tar`; a directory with the configuration and the checkpoint of HiFi-Codec,
      WavTokenizer, Language-Codec, DM-Codec or SpeechTokenizer; a directory with the three
      `.tflite` files of Lyra V2; or one with SemantiCodec's two checkpoints and a codebook.
    exact: for Lyra V2, whether to compute with the 8-bit integers of its files, or with floats.

  Raises:
    CodecError: if nothing of that name is found, or what is found is damaged, not supported, or of
      a kind that may run code when it is read: pickles, and archives that may hold them.
    ValueError: if the codec has no exact form.
  """
  codec = _load(name_or_path, exact)
  if exact and not isinstance(codec.module, LyraExact):
    raise ValueError(f"codec {codec.name} has no exact form: its weights are floats")
  return codec


def load_sound(name_or_path: str | pathlib.Path) -> Codec:
  """As `load`, a codec of sound.

  Raises:
    CodecError: as `load`, and for a codec of pictures.
  """
  codec = load(name_or_path)
  if isinstance(codec, LatentCodec):
    raise CodecError(f"{name_or_path} is a codec of pictures, and one of sound is needed")
  return codec


def load_picture(name_or_path: str | pathlib.Path) -> LatentCodec:
  """As `load`, a codec of pictures.

  Raises:
    CodecError: as `load`, and for a codec of sound.
  """
  codec = load(name_or_path)
  if not isinstance(codec, LatentCodec):
    raise CodecError(f"{name_or_path} is a codec of sound, and one of pictures is needed")
  return codec


def _load(name_or_path: str | pathlib.Path, exact: bool) -> Codec | LatentCodec:
  name = str(name_or_path)
  if not name:
    raise CodecError("no codec has an empty name")
  if name in bundled():
    return _load_directory(_BUNDLED / name, name)
  directory = pathlib.Path(name_or_path)
  if directory.is_dir():
    name = directory.resolve().name
    if lyra.is_lyra(directory):
      return lyra.load_lyra(directory, name, exact=exact)
    if semanticodec.is_semanticodec(directory):
      return semanticodec.load_semanticodec(directory, name)
    return _load_directory(directory, name)
  if directory.suffix in (".pth", ".tar") and directory.is_file():
    return _load_torch(directory)
  if directory.suffix == ".safetensors" and directory.is_file():
    return native.load_file(directory)
  if directory.is_file():
    raise foreign.refusal(directory)
  if isinstance(name_or_path, str) and _is_repository(name):
    return _load_directory(_download(name), name)
  names = ", ".join(bundled())
  raise CodecError(f"no codec {name!r}: neither a directory nor bundled ({names})")


def _load_torch(path: pathlib.Path) -> Codec | LatentCodec:
  content = read_torch(path)
  arrays = content.get("state_dict", content) if isinstance(content, dict) else None
  if isinstance(arrays, dict) and (compressai.is_compressai(arrays) or mlic.is_mlic(arrays)):
    return picture.of_state_dict(arrays, path, path.name.split(".")[0])
  return dac.of_content(content, path, path.stem)


def _load_directory(directory: pathlib.Path, name: str) -> Codec | LatentCodec:
  weights = directory / "weights.pth"
  if weights.is_file() and not (directory / "config.json").is_file():
    return dac.load_original(weights, name)
  if not (directory / "config.json").is_file():
    described = vocos.find_config(directory)
    if described is not None:
      return vocos.load_vocos(directory, described, name)
  config = read_config(directory)
  if native.is_native(config) and config.get("system") in picture.SYSTEMS:
    return picture.load_picture(directory, config)
  if native.is_native(config):
    return native.load_native(directory)
  if run.is_run(config):
    return run.load_run(directory)
  if config.get("model_type") == "encodec":
    return encodec.load_encodec(directory, name)
  if config.get("model_type") == "mimi":
    return mimi.load_mimi(directory, name)
  if config.get("model_type") == "dac":
    return dac.load_dac(directory, name)
  if hifi_codec.is_hifi_codec(config):
    return hifi_codec.load_hifi_codec(directory, config, name)
  if dm_codec.is_dm_codec(config):
    return dm_codec.load_dm_codec(directory, config, name)
  raise CodecError(
    f"{directory} holds no codec known here: model_type {config.get('model_type')!r}"
  )


def _is_repository(name: str) -> bool:
  parts = name.split("/")
  return len(parts) == 2 and all(part and part.strip(".") for part in parts)


def _download(name: str) -> pathlib.Path:
  import huggingface_hub
  from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

  files = ["config.json", "model.safetensors"]
  try:
    return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=files))
  except LocalEntryNotFoundError:
    raise CodecError(f"{name} is not in the local cache and the hub cannot be reached") from None
  except HFValidationError as error:
    raise CodecError(f"{name!r} is no repository name: {str(error).splitlines()[0]}") from None
  except (HfHubHTTPError, OSError) as error:
    raise CodecError(f"{name} cannot be fetched: {str(error).splitlines()[0]}") from None
