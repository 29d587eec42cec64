"""Our picture codecs against CompressAI's, from what `recorded/make_image.py` recorded."""

import jax
import numpy as np
import pytest
from recorded_pictures import RECORDED, read

CASES = sorted({name.split("/")[0] for name in RECORDED} - {"x"})
PICTURE = RECORDED["x"].astype(np.float32) / 127.5 - 1


# Those that compile longest.
SLOW = ("autoregressive", "attention", "elic")


@pytest.mark.parametrize(
  "case", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in CASES]
)
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
    got, expected = np.maximum(likelihood, 1e-9), want[f"likelihood_{name}"]
    # In a tail a rounding of the scale counts as often as the logarithm says, twice over.
    slack = 1e-5 * np.maximum(1, -2 * np.log(expected))
    np.testing.assert_array_less(np.abs(got - expected), slack * expected)
  x_hat = (np.asarray(coded.x_hat)[:, ::3, 1::2] + 1) / 2
  np.testing.assert_allclose(x_hat, want["x_hat"], atol=1e-4, rtol=0)
