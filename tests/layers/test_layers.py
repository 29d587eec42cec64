import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import draw_params

from jaxcodec import functional as F
from jaxcodec.decoders.seanet import SEANetDecoder
from jaxcodec.encoders.seanet import SEANetEncoder
from jaxcodec.layers.conv import Conv1d, ConvTranspose1d
from jaxcodec.layers.norms import BatchNorm, batch_statistics
from jaxcodec.layers.recurrent import LSTM
from jaxcodec.layers.seanet import ResidualBlock, SEANetConfig

TINY = SEANetConfig(num_filters=4, strides=(2, 3), dimension=5, num_lstm_layers=1)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def init(layer, x):
  return {"params": draw_params(layer, x)}


def test_conv1d_is_the_function_with_its_parameters():
  x = normal(2, 11, 3)
  for causal in (True, False):
    layer = Conv1d(4, 6, stride=2, causal=causal, pad_mode="reflect")
    variables = init(layer, x)
    params = variables["params"]
    got, _ = layer.apply(variables, x)
    function = F.causal_conv if causal else F.same_conv
    want, _ = function(x, params["kernel"], params["bias"], stride=2, pad_mode="reflect")
    np.testing.assert_array_equal(got, want)


def test_conv_transpose_cuts_both_sides_unless_causal():
  x = normal(2, 5, 3)
  layer = ConvTranspose1d(4, 7, 2, causal=False)  # Five too many: 3 off the left, 2 off the right.
  variables = init(layer, x)
  params = variables["params"]
  untrimmed = F.conv_transpose(x, params["kernel"], params["bias"], stride=2)
  got, _ = layer.apply(variables, x)
  np.testing.assert_array_equal(got, untrimmed[:, 3:-2])
  causal, _ = ConvTranspose1d(4, 7, 2).apply(variables, x)
  np.testing.assert_allclose(causal, untrimmed[:, :-5], atol=1e-6)


@pytest.mark.parametrize("transposed", [False, True])
def test_time_group_norm_normalises_each_row_over_time_and_channels(transposed):
  x = normal(3, 9, 2) * np.float32([1, 100, 0.01])[:, None, None]
  window = {"causal": False, "norm": "time_group"}
  layer = ConvTranspose1d(4, 4, 2, **window) if transposed else Conv1d(4, 3, **window)
  variables = init(layer, x)
  params = variables["params"]
  if transposed:
    y = F.conv_transpose(x, params["kernel"], params["bias"], stride=2)
  else:
    y, _ = F.same_conv(x, params["kernel"], params["bias"], pad_mode="zero")
  y = np.asarray(y, np.float64)
  mean, variance = (f(y, axis=(1, 2), keepdims=True) for f in (np.mean, np.var))
  want = (y - mean) / np.sqrt(variance + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
  want = want[:, 1:-1] if transposed else want
  np.testing.assert_allclose(layer.apply(variables, x)[0], want, atol=1e-5)


def test_a_norm_over_time_refuses_chunks():
  x = normal(1, 8, 2)
  window = {"causal": False, "norm": "time_group"}
  for layer in (Conv1d(2, 3, **window), ConvTranspose1d(2, 4, 2, **window)):
    with pytest.raises(ValueError, match="norm over time needs the whole signal"):
      layer.apply(init(layer, x), x, None, False)
  with pytest.raises(ValueError, match="norm over time"):
    Conv1d(2, 3, norm="time_group").init(jax.random.key(0), x)


def test_a_norm_over_time_leaves_out_what_lies_past_a_rows_length():
  x = normal(2, 9, 3)
  for layer in (
    Conv1d(4, 3, causal=False, norm="time_group"),
    ConvTranspose1d(4, 4, 2, causal=False, norm="time_group"),
  ):
    variables = init(layer, x)
    apply = jax.jit(layer.apply)
    got, _ = apply(variables, x, length=np.array([5, 9]))
    for row, length in enumerate([5, 9]):
      alone, _ = apply(variables, x[row : row + 1, :length])
      np.testing.assert_allclose(got[row : row + 1, : alone.shape[1]], alone, atol=1e-6)


def test_lstm_stacks_layers_and_adds_its_input():
  x = normal(2, 6, 3)
  layer = LSTM(2)
  variables = init(layer, x)
  params = variables["params"]
  y = x
  for i in range(2):
    names = ("input_kernel", "recurrent_kernel", "bias")
    y, _ = F.lstm(y, *(params[f"{name}_{i}"] for name in names))
  np.testing.assert_allclose(layer.apply(variables, x)[0], y + x, atol=1e-6)


@pytest.mark.parametrize("conv_shortcut", [True, False])
def test_residual_block_adds_two_convolutions_to_its_shortcut(conv_shortcut):
  x = normal(2, 9, 4)
  config = dataclasses.replace(TINY, conv_shortcut=conv_shortcut)
  block = ResidualBlock(config, dilation=2)
  variables = init(block, x)
  params = {k: (v["kernel"], v["bias"]) for k, v in variables["params"].items()}
  assert params["conv_0"][0].shape == (3, 4, 2)
  y, _ = F.causal_conv(F.elu(x), *params["conv_0"], dilation=2, pad_mode="reflect")
  y, _ = F.causal_conv(F.elu(y), *params["conv_1"])
  skip = F.causal_conv(x, *params["shortcut"])[0] if conv_shortcut else x
  assert ("shortcut" in params) == conv_shortcut
  np.testing.assert_allclose(block.apply(variables, x)[0], skip + y, atol=1e-6)


@pytest.mark.parametrize("norm", [None, "time_group"])
@pytest.mark.parametrize("length", [1, 5, 6, 7, 20])
def test_seanet_has_a_latent_per_hop_and_a_hop_per_latent(length, norm):
  config = dataclasses.replace(TINY, channels=2, norm=norm, causal=norm is None)
  x = jax.ShapeDtypeStruct((3, length, 2), jnp.float32)
  encoder, decoder = SEANetEncoder(config), SEANetDecoder(config)
  (z, _), _ = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x), x)
  assert z.shape == (3, -(-length // 6), 5)
  (y, _), _ = jax.eval_shape(lambda z: decoder.init_with_output(jax.random.key(0), z), z)
  assert y.shape == (3, z.shape[1] * 6, 2)


def test_a_later_sample_changes_no_earlier_latent_of_a_causal_encoder():
  x = normal(1, 24, 1)
  encoder = SEANetEncoder(dataclasses.replace(TINY, pad_mode="zero"))
  variables = init(encoder, x)
  changed = x.copy()
  changed[:, 12:] += 1
  apply = jax.jit(encoder.apply)
  z, z_changed = (np.asarray(apply(variables, s)[0]) for s in (x, changed))
  np.testing.assert_array_equal(z[:, :2], z_changed[:, :2])
  assert (z[:, 2:] != z_changed[:, 2:]).all()


def test_a_batch_is_normalised_by_itself_and_its_statistics_are_handed_over():
  x = normal(2, 5, 3) * np.array([1, 2, 3], np.float32) + 1
  layer = BatchNorm(name="norm")
  params = {key: normal(3, seed=i) for i, key in enumerate(("scale", "bias", "mean", "variance"))}
  params["variance"] = 0.5 + np.abs(params["variance"])

  @jax.jit
  def run(params, x):
    found = {}
    y = layer.apply({"params": params}, x, found)
    moved = batch_statistics({"": params}, found)[""]
    return layer.apply({"params": params}, x), y, moved

  plain, y, moved = run(params, x)
  scale, bias = params["scale"], params["bias"]
  want = (x - params["mean"]) / np.sqrt(params["variance"] + 1e-5) * scale + bias
  np.testing.assert_allclose(plain, want, atol=1e-5)
  rows = x.reshape(10, 3).astype(np.float64)
  want = (x - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + 1e-5) * scale + bias
  np.testing.assert_allclose(y, want, atol=1e-5)
  # A tenth of the batch's, whose variance is unbiased, as in PyTorch.
  mean = 0.9 * params["mean"] + 0.1 * rows.mean(axis=0)
  np.testing.assert_allclose(moved["mean"], mean, atol=1e-6)
  variance = 0.9 * params["variance"] + 0.1 * rows.var(axis=0, ddof=1)
  np.testing.assert_allclose(moved["variance"], variance, rtol=1e-5)
  np.testing.assert_array_equal(moved["scale"], scale)
