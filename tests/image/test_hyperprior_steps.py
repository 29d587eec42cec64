"""A training step's loss and gradients against CompressAI's, recorded by
`recorded/make_image_steps.py`."""

import json
import pathlib

import jax
import numpy as np
import pytest
from drawn_weights import draw, draw_signal

from jaxcodec import functional as F
from jaxcodec.data.pictures import Pictures
from jaxcodec.hub import compressai
from jaxcodec.hub.checkpoint import Tensors
from jaxcodec.training import rate_distortion
from jaxcodec.training.config import Adam, LearningRate

PATH = pathlib.Path(__file__).parents[1] / "recorded" / "image_steps.npz"
RECORDED = dict(np.load(PATH))
LAMBDA = 1e-4


@pytest.mark.slow  # Its gradient takes long to compile.
@pytest.mark.parametrize("case", ["scale", "mean_scale"])
def test_loss_and_gradients_are_those_of_compressai(case, monkeypatch):
  own = {key[len(case) + 1 :]: x for key, x in RECORDED.items() if key.startswith(f"{case}/")}
  arrays = draw(json.loads(str(own["weights"])))
  module, params = compressai.read_compressai(Tensors(PATH, arrays), arrays)
  gradients = arrays | {key[3:]: x for key, x in own.items() if key.startswith("to/")}
  _, wanted = compressai.read_compressai(Tensors(PATH, gradients), gradients)
  noises = [draw_signal(2, 2, 1, 1, 8), draw_signal(3, 2, 4, 4, 12)]
  monkeypatch.setattr(F, "uniform_noise", lambda _, z: z + noises.pop(0))
  config = rate_distortion.TrainPictures(
    name=case,
    codec=module,
    data=Pictures(size=(64, 64)),
    batch_size=2,
    num_steps=1,
    optimizer=Adam(rate=LearningRate(peak=1e-3)),
    lambdas=(LAMBDA, LAMBDA),
  )
  x = 2 * draw_signal(1, 2, 64, 64, 3)
  found, terms = rate_distortion.loss_gradients(params, x, jax.random.key(0), config, late=False)
  assert not noises
  np.testing.assert_allclose(terms["objective"], own["loss"], rtol=1e-6)
  np.testing.assert_allclose(terms["quantiles"], own["auxiliary"], rtol=1e-6)

  def compare(path, mine, theirs):
    error = np.abs(mine - theirs).max() / np.abs(theirs).max()
    # CompressAI's own in float32 is up to 2e-4 from the recorded float64.
    assert error < 1e-4, (jax.tree_util.keystr(path), error)

  jax.tree_util.tree_map_with_path(compare, found, wanted)
