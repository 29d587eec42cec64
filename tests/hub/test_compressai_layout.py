"""CompressAI's names and shapes: what is read, what is passed over, what is refused."""

import json
import pathlib

import jax
import numpy as np
import pytest
from drawn_weights import draw
from written_archive import Archive

import jaxcodec
from jaxcodec.errors import CodecError
from jaxcodec.hub import compressai
from jaxcodec.hub.checkpoint import Tensors
from jaxcodec.hub.load import load_sound
from jaxcodec.image.autoregressive import JointAutoregressive
from jaxcodec.image.elic import Elic
from jaxcodec.image.factorized import FactorizedPrior
from jaxcodec.image.hyperprior import MeanScaleHyperprior, ScaleHyperprior

PATH = pathlib.Path(__file__).parents[1] / "recorded" / "image.npz"
RECORDED = np.load(PATH)


def arrays_of(case: str) -> dict[str, np.ndarray]:
  return draw(json.loads(str(RECORDED[f"{case}/weights"])))


def read(arrays):
  return compressai.read_compressai(Tensors(pathlib.Path("a.pth"), arrays), arrays)


def test_the_codec_and_its_sizes_follow_from_names_and_shapes():
  assert read(arrays_of("mean_scale"))[0] == MeanScaleHyperprior(filters=8, latents=12)
  assert read(arrays_of("elic"))[0] == Elic(filters=8, latents=12, groups=(2, 4, 6))
  relu = FactorizedPrior(filters=8, latents=12, rectified=True)
  assert read(arrays_of("factorized_relu"))[0] == relu
  for transform in ("residual", "attention"):
    joint = JointAutoregressive(filters=8, latents=8, transform=transform)
    assert read(arrays_of(transform))[0] == joint


def test_names_of_older_files_are_read():
  arrays = arrays_of("mean_scale")

  def old(name: str) -> str:
    for new in ("matrices", "biases", "factors"):
      name = name.replace(f"entropy_bottleneck.{new}.", f"entropy_bottleneck._{new}.")
    return f"module.{name}"

  older = compressai.renamed({old(name): array for name, array in arrays.items()})
  assert older.keys() == arrays.keys()
  jax.tree.map(np.testing.assert_array_equal, read(older)[1], read(arrays)[1])
  middle = {name.replace(".matrices.", "._matrix"): array for name, array in arrays.items()}
  assert compressai.renamed(middle).keys() == arrays.keys()


def test_a_weight_missing_extra_or_mis_shaped_is_named():
  arrays = arrays_of("mean_scale")
  for name in ("h_s.2.weight", "g_a.1.gamma", "entropy_bottleneck.factors.2", "h_a.0.bias"):
    with pytest.raises(CodecError, match=f"a.pth lacks the weight {name}"):
      read({key: array for key, array in arrays.items() if key != name})
    wrong = arrays | {name: np.zeros((5, *arrays[name].shape[1:]), np.float32)}
    with pytest.raises(CodecError, match=rf"weight {name} in a.pth has shape \(5,"):
      read(wrong)
    with pytest.raises(CodecError, match=f"weight {name} in a.pth is not finite"):
      read(arrays | {name: np.full_like(arrays[name], np.nan)})
  with pytest.raises(CodecError, match=r"a weight that this codec does not: h_s.6.weight"):
    read(arrays | {"h_s.6.weight": arrays["h_s.4.weight"]})
  with pytest.raises(CodecError, match=r"g_a.6.weight in a.pth has shape \(12,\), four sizes"):
    read(arrays | {"g_a.6.weight": np.zeros(12, np.float32)})


def test_load_reads_what_torch_save_wrote(tmp_path):
  arrays = arrays_of("scale")
  state = {f"module.{name}": array for name, array in arrays.items()}
  Archive().write(tmp_path / "scale.pth.tar", {"state_dict": state, "epoch": 3})
  codec = jaxcodec.load(tmp_path / "scale.pth.tar")
  assert codec.name == "scale"
  assert codec.module == ScaleHyperprior(filters=8, latents=12)
  np.testing.assert_array_equal(codec.params["g_a"]["layers_0"]["bias"], arrays["g_a.0.bias"])
  with pytest.raises(CodecError, match="codec of pictures, and one of sound is needed"):
    load_sound(tmp_path / "scale.pth.tar")
