"""Our picture codecs against CompressAI's, from what `recorded/make_image.py` recorded."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest
from drawn_weights import draw

from jaxcodec.hub import compressai
from jaxcodec.hub.checkpoint import Tensors
from jaxcodec.image.channelwise import ChannelWise
from jaxcodec.image.checkerboard import Checkerboard

PATH = pathlib.Path(__file__).parents[1] / "recorded" / "image.npz"
RECORDED = dict(np.load(PATH))
CASES = sorted({name.split("/")[0] for name in RECORDED} - {"x"})
PICTURE = RECORDED["x"].astype(np.float32) / 127.5 - 1


def read(case: str):
  arrays = draw(json.loads(str(RECORDED[f"{case}/weights"])))
  if case not in ("channelwise", "checkerboard"):  # CompressAI has no files of these two.
    return compressai.read_compressai(Tensors(PATH, arrays), arrays)
  module = Checkerboard(filters=8, latents=12)
  if case == "channelwise":
    module = ChannelWise(filters=8, latents=12, slices=3, max_support=2, widths=(10, 9))
    arrays = {re.sub(r"^(means|scales|residuals)\.", r"\1_", name): x for name, x in arrays.items()}
  tensors = Tensors(PATH, arrays)
  for name in arrays:
    if compressai.is_buffer(name):
      tensors.ignore(name)
  return module, compressai.read_params(module, tensors)


@pytest.mark.parametrize("case", CASES)
def test_a_codec_equals_compressai(case):
  module, params = read(case)

  @jax.jit
  def run(params, x):
    return module.apply({"params": params}, x), module.apply(
      {"params": params}, x, method="analyse"
    )[0]

  coded, y = run(params, PICTURE)
  want = {key.split("/")[1]: x for key, x in RECORDED.items() if key.startswith(f"{case}/")}
  spread = np.abs(want["y"]).max()
  np.testing.assert_allclose(y, want["y"], atol=1e-5 * spread, rtol=0)
  for name, likelihood in coded.likelihoods.items():
    got = np.maximum(likelihood, 1e-9)
    np.testing.assert_allclose(got, want[f"likelihood_{name}"], rtol=1e-5)
  x_hat = (np.asarray(coded.x_hat)[:, ::3, 1::2] + 1) / 2
  np.testing.assert_allclose(x_hat, want["x_hat"], atol=1e-4, rtol=0)
