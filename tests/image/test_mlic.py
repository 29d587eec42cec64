"""MLIC++ against what its authors' code gave, and MLICv2's parts against their equations."""

import json
import pathlib

import jax
import numpy as np
import pytest
from drawn_weights import draw_mlic

from jaxcodec.hub import mlic as hub
from jaxcodec.hub.checkpoint import Tensors

PATH = pathlib.Path(__file__).parents[1] / "recorded" / "mlic.npz"
RECORDED = dict(np.load(PATH))
CONTEXTS = ("local_context", "global_intra_context", "global_inter_context", "channel_context")


@pytest.fixture(scope="module")
def published():
  """Module and parameters of the recorded codec."""
  arrays = draw_mlic(json.loads(str(RECORDED["weights"])))
  return hub.read_mlic(Tensors(PATH, arrays), set(arrays))


@pytest.fixture(scope="module")
def contexts(published):
  """What our contexts give of their recorded inputs, in one program."""
  module, params = published
  inputs = {
    name: [RECORDED[f"{name}_in{i}"] for i in range(2) if f"{name}_in{i}" in RECORDED]
    for name in CONTEXTS
  }

  @jax.jit
  def run(params, inputs):
    bound = module.bind({"params": params})
    return {name: getattr(bound, name)[-1](*inputs[name]) for name in CONTEXTS}

  return run(params, inputs)


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_context_equals_the_authors(name, contexts):
  want = RECORDED[name]
  np.testing.assert_allclose(contexts[name], want, atol=1e-5 * np.abs(want).max(), rtol=0)


@pytest.mark.slow
def test_the_codec_equals_the_authors(published):
  module, params = published

  @jax.jit
  def run(params, x):
    bound = module.bind({"params": params})
    y, z = bound.analyse(x)
    return y, bound.code(y, z)

  y, coded = run(params, RECORDED["picture"].astype(np.float32) / 127.5 - 1)
  np.testing.assert_allclose(y, RECORDED["y"], atol=1e-5 * np.abs(RECORDED["y"]).max(), rtol=0)
  for name, likelihood in coded.likelihoods.items():
    got, want = np.maximum(likelihood, 1e-9), RECORDED[f"likelihood_{name}"]
    slack = 3e-5 * np.maximum(1, -2 * np.log(want))
    np.testing.assert_array_less(np.abs(got - want), slack * want)
  x_hat = (np.asarray(coded.x_hat)[:, ::3, 1::2] + 1) / 2
  np.testing.assert_allclose(x_hat, RECORDED["x_hat"], atol=1e-4, rtol=0)
