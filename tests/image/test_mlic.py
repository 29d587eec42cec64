"""MLIC++ against what its authors' code gave, and MLICv2's parts against their equations."""

import json
import pathlib

import jax
import numpy as np
import pytest
from drawn_weights import draw_mlic
from random_params import draw_params
from scipy import special
from written_archive import Archive

import jaxcodec
from jaxcodec.errors import CodecError
from jaxcodec.functional import exact
from jaxcodec.functional.exact import UNIT
from jaxcodec.hub import mlic as hub
from jaxcodec.hub.checkpoint import Tensors
from jaxcodec.image import mlic_passes
from jaxcodec.image.mlic import Mlic
from jaxcodec.layers import references as R
from jaxcodec.layers.mixing import TokenMixing

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
def test_the_codec_equals_the_authors(published, tmp_path):
  arrays = draw_mlic(json.loads(str(RECORDED["weights"])))
  state = {f"module.{name}": array for name, array in arrays.items()}
  Archive().write(tmp_path / "mlic.pth.tar", {"state_dict": state})
  loaded = jaxcodec.load(tmp_path / "mlic.pth.tar")
  module, params = loaded.module, loaded.params
  assert module == published[0]

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


@pytest.mark.slow
def test_the_published_size_has_the_published_number_of_parameters():
  example = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  shapes = jax.eval_shape(Mlic().init, jax.random.key(0), example)
  assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6, 1) == 83.5


def test_contexts_of_whole_numbers_are_the_authors_to_their_rounding(published):
  module, params = published
  own = {name: part for name, part in params.items() if "context" in name}
  found = mlic_passes.networks(jax.tree.map(np.asarray, own))
  before, anchors = (
    exact.whole(RECORDED[name][0])
    for name in ("global_inter_context_in0", "global_intra_context_in1")
  )
  y = np.concatenate([before, anchors], axis=-1)
  inter, channel = mlic_passes._before(found, 2, before)
  local, intra = mlic_passes._beside(module, found, 2, y, None)
  for name, got in zip(CONTEXTS, (local, intra, inter, channel), strict=True):
    np.testing.assert_allclose(got / UNIT, RECORDED[name][0], atol=8e-3, rtol=0)


def test_files_of_other_slices_or_without_a_weight_are_refused():
  arrays = draw_mlic(json.loads(str(RECORDED["weights"])))

  def read(arrays):
    return hub.read_mlic(Tensors(PATH, arrays), set(arrays))

  last = "lrp_anchor.2.lrp_transform.0.bias"
  with pytest.raises(CodecError, match="96 latents in 2 slices, not 32 in each"):
    read({name: x for name, x in arrays.items() if name != last})
  for name in ("g_a.analysis_transform.6.weight", "local_context.1.fusion.weight"):
    with pytest.raises(CodecError, match=f"lacks the weight {name}"):
      read({other: x for other, x in arrays.items() if other != name})


X = np.random.default_rng(0).normal(size=(1, 4, 6, 8)).astype(np.float32)


def gelu(x):
  return x * special.ndtr(x)


@pytest.fixture(scope="module")
def layers():
  """Parameters and outputs of layers of MLICv2, in one program."""
  modules = {"weights": R.Reweighted(), "mixing": TokenMixing(), "first": R.GlobalFirst(8)}
  inputs = dict.fromkeys(modules, (X,)) | {"first": (X[..., ::-1], X)}
  params = {name: draw_params(module, *inputs[name]) for name, module in modules.items()}

  @jax.jit
  def run(params):
    return {n: m.apply({"params": params[n]}, *inputs[n]) for n, m in modules.items()}

  return jax.tree.map(np.asarray, (params, run(params)))


def test_channels_are_weighed_by_the_means_over_the_picture(layers):
  own, found = (part["weights"] for part in layers)
  hidden = gelu(X.mean(axis=(1, 2)) @ own["down"]["kernel"][0, 0] + own["down"]["bias"])
  gate = special.expit(hidden @ own["up"]["kernel"][0, 0] + own["up"]["bias"])
  np.testing.assert_allclose(found, X * gate[:, None, None], atol=1e-5)


def test_token_mixing_is_two_gated_steps_beside_the_identity(layers):
  own, found = (part["mixing"] for part in layers)

  def dense(name, x):
    return x @ own[name]["kernel"][0, 0] + own[name]["bias"]

  def around(name, x):
    kernel, size = own[name]["depthwise_kernel"], len(own[name]["depthwise_kernel"])
    padded = np.pad(x, ((0, 0), *[(size // 2,) * 2] * 2, (0, 0)))
    taps = (padded[:, i : i + 4, j : j + 6] * kernel[i, j] for i, j in np.ndindex(size, size))
    return sum(taps) + own[name]["bias"]

  def norm(name, x):
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return x * own[name]["scale"] + own[name]["bias"]

  y = norm("norm1", X)
  x = X + dense("out", around("around", dense("mixed", y)) * gelu(dense("gate", y)))
  a, b = np.split(dense("up", norm("norm2", x)), 2, axis=-1)
  want = x + dense("down", a * gelu(around("near", b)))
  np.testing.assert_allclose(found, want, atol=2e-5)


def test_side_information_guides_the_first_slice_from_anchors_to_others(layers):
  own, found = (part["first"] for part in layers)
  # What whole numbers give, whose parts are compared with the authors' above.
  parts = {"global_first_context": mlic_passes._exact(own)}
  (got,) = mlic_passes._beside(
    Mlic(8, 8, slices=1), parts, 0, *map(exact.whole, (X[0], X[0, ..., ::-1]))
  )
  np.testing.assert_allclose(got / UNIT, found[0], atol=5e-3)


def test_latents_of_small_scales_are_left_out():
  module = Mlic(filters=8, latents=8, slices=1, references=(), skip_below=0.12)
  y = 4 * np.random.default_rng(1).normal(size=(1, 4, 4, 8)).astype(np.float32)
  z = np.zeros((1, 1, 1, 8), np.float32)
  params = draw_params(module, np.zeros((1, 64, 64, 3), np.float32))
  for name in ("lrp_anchor_0", "lrp_nonanchor_0"):  # They add nothing.
    params[name]["layers_4"] = jax.tree.map(np.zeros_like, params[name]["layers_4"])

  @jax.jit
  def run(params, selective):
    coded = module.apply({"params": params}, y, z, method="code", selective=selective)
    return coded.y_hat, coded.likelihoods["y"], coded.penalty

  (left, likely, penalty), (whole, _, nothing) = (run(params, flag) for flag in (True, False))
  out = np.asarray(likely) == 1
  assert 0.5 < out.mean() < 1
  np.testing.assert_array_equal(left[~out], whole[~out])
  means = np.asarray(left)[out]
  np.testing.assert_allclose(whole[out], np.round(y[out] - means) + means, atol=1e-5)
  lost = np.maximum(np.abs(y[out] - means) - 0.5, 0).sum() / (64 * 64)
  np.testing.assert_allclose(penalty, [lost], rtol=1e-5)
  assert float(nothing[0]) == 0
