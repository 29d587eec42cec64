import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxcodec import functional as F

# Sums of at most a few dozen float32 products of unit size.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}

# Not the very bits: how the CPU blocks a product of matrices depends on their height.
ROUNDING = {"rtol": 0, "atol": 2e-6}

few = settings(max_examples=4, deadline=None)

# Width, stride, dilation.
SLOW = [pytest.param(*window, marks=pytest.mark.slow) for window in ((10, 5, 1), (1, 1, 1))]
WINDOWS = [(7, 1, 1), (4, 2, 1), (3, 1, 4), *SLOW]


def compiled(function):
  """One program a shape rather than one an operation."""
  numbers = [
    name for name, p in inspect.signature(function).parameters.items() if p.kind == p.KEYWORD_ONLY
  ]
  return jax.jit(function, static_argnames=[name for name in numbers if name != "length"])


conv, conv_transpose = compiled(F.conv), compiled(F.conv_transpose)
causal_conv, causal_conv_transpose = compiled(F.causal_conv), compiled(F.causal_conv_transpose)
same_conv, same_conv_transpose = compiled(F.same_conv), compiled(F.same_conv_transpose)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def conv_by_definition(x, kernel, stride, dilation):
  width = kernel.shape[0]
  steps = (x.shape[1] - (width - 1) * dilation - 1) // stride + 1
  y = np.zeros((x.shape[0], steps, kernel.shape[2]))
  for t in range(steps):
    for k in range(width):
      y[:, t] += x[:, t * stride + k * dilation].astype(np.float64) @ kernel[k]
  return y


def conv_transpose_by_definition(x, kernel, stride):
  y = np.zeros((x.shape[0], (x.shape[1] - 1) * stride + kernel.shape[0], kernel.shape[2]))
  for t in range(x.shape[1]):
    for k in range(kernel.shape[0]):
      y[:, t * stride + k] += x[:, t].astype(np.float64) @ kernel[k]
  return y


@pytest.mark.parametrize(
  ("width", "stride", "dilation"), [(1, 1, 1), (3, 1, 2), (4, 2, 1), (7, 3, 1), (2, 5, 3)]
)
def test_conv_is_its_definition(width, stride, dilation):
  x, kernel, bias = normal(2, 17, 3), normal(width, 3, 4, seed=1), normal(4, seed=2)
  got = conv(x, kernel, bias, stride=stride, dilation=dilation)
  want = conv_by_definition(x, kernel, stride, dilation) + bias
  np.testing.assert_allclose(got, want, **CLOSE)


@pytest.mark.parametrize(("width", "stride"), [(1, 1), (4, 2), (6, 3), (5, 2), (7, 3), (2, 3)])
def test_conv_transpose_scatters_the_kernel(width, stride):
  x, kernel, bias = normal(2, 6, 3), normal(width, 3, 4, seed=1), normal(4, seed=2)
  want = conv_transpose_by_definition(x, kernel, stride) + bias
  np.testing.assert_allclose(conv_transpose(x, kernel, bias, stride=stride), want, **CLOSE)


@pytest.mark.parametrize(("width", "stride"), [(4, 2), (5, 2), (6, 3)])
def test_causal_conv_transpose_cuts_the_right(width, stride):
  x, kernel = normal(2, 6, 3), normal(width, 3, 4, seed=1)
  got, state = causal_conv_transpose(x, kernel, stride=stride)
  want = conv_transpose_by_definition(x, kernel, stride)[:, : 6 * stride]
  np.testing.assert_allclose(got, want, **CLOSE)
  assert state.shape == (2, -(-width // stride) - 1, 3)


@pytest.mark.parametrize(("width", "stride"), [(4, 2), (5, 2)])
def test_gradients_of_conv_transpose_are_those_of_jax(width, stride):
  x, kernel = normal(2, 6, 3), normal(width, 3, 4, seed=1)
  weight = normal(2, 5 * stride + width, 4, seed=2)

  def ours(x, kernel):
    return jnp.vdot(weight, conv_transpose(x, kernel, stride=stride))

  def theirs(x, kernel):
    # jax's kernel runs the other way; the padding keeps every output.
    y = jax.lax.conv_general_dilated(
      x,
      kernel[::-1],
      (1,),
      [(width - 1, width - 1)],
      lhs_dilation=(stride,),
      dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return jnp.vdot(weight, y)

  got, want = (jax.grad(f, argnums=(0, 1))(x, kernel) for f in (ours, theirs))
  np.testing.assert_allclose(got[0], want[0], **CLOSE)
  np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-4)  # A sum over time too.


@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
@pytest.mark.parametrize(("width", "stride", "dilation"), [(7, 1, 1), (4, 2, 1), (3, 1, 4)])
def test_causal_conv_pads_left_and_completes_the_last_stride(width, stride, dilation, pad_mode):
  x, kernel = normal(1, 21, 2), normal(width, 2, 3, seed=1)
  got, _ = causal_conv(x, kernel, stride=stride, dilation=dilation, pad_mode=pad_mode)
  past = (width - 1) * dilation + 1 - stride
  mode = {"zero": "constant", "reflect": "reflect"}[pad_mode]
  padded = np.pad(x, ((0, 0), (past, -21 % stride), (0, 0)), mode)
  assert got.shape[1] == -(-21 // stride)
  np.testing.assert_allclose(got, conv_by_definition(padded, kernel, stride, dilation), **CLOSE)


@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
@pytest.mark.parametrize(("width", "stride", "dilation"), [(7, 1, 1), (4, 2, 1), (10, 5, 1)])
@pytest.mark.parametrize("length", [20, 21, 23])
def test_same_conv_gives_the_left_the_larger_half(length, width, stride, dilation, pad_mode):
  x, kernel = normal(1, length, 2), normal(width, 2, 3, seed=1)
  got, _ = same_conv(x, kernel, stride=stride, dilation=dilation, pad_mode=pad_mode)
  total = (width - 1) * dilation + 1 - stride
  right = total // 2 + -length % stride
  mode = {"zero": "constant", "reflect": "reflect"}[pad_mode]
  padded = np.pad(x, ((0, 0), (total - total // 2, right), (0, 0)), mode)
  assert got.shape[1] == -(-length // stride)
  np.testing.assert_allclose(got, conv_by_definition(padded, kernel, stride, dilation), **CLOSE)


@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
@pytest.mark.parametrize(("width", "stride", "dilation"), WINDOWS)
@given(data=st.data())
@few
def test_causal_conv_in_chunks_equals_the_whole(data, width, stride, dilation, pad_mode):
  past = (width - 1) * dilation + 1 - stride
  first = past // stride + 1 if pad_mode == "reflect" else 1
  sizes = [first, *data.draw(st.permutations([1, 1, 3])), 2]
  lengths = [size * stride for size in sizes]
  lengths[-1] -= data.draw(st.sampled_from([0, stride - 1]))  # Only the end may be ragged.
  x, kernel, bias = normal(2, sum(lengths), 3), normal(width, 3, 4, seed=1), normal(4, seed=2)
  window = {"stride": stride, "dilation": dilation, "pad_mode": pad_mode}
  whole, _ = causal_conv(x, kernel, bias, **window)
  parts, state, start = [], None, 0
  for i, length in enumerate(lengths):
    part, state = causal_conv(
      x[:, start : start + length], kernel, bias, state, final=i == len(lengths) - 1, **window
    )
    assert (state if pad_mode == "zero" else state[0]).shape == (2, past, 3)
    parts.append(part)
    start += length
  np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, **ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("pad_mode", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize(("width", "stride", "dilation"), [(7, 1, 1), (4, 2, 1), (3, 1, 3)])
@given(data=st.data())
@few
def test_a_row_may_start_anew_while_another_goes_on(data, width, stride, dilation, pad_mode):
  sizes = [7 * stride, stride * data.draw(st.sampled_from([1, 4])), 7 * stride]
  x, kernel = normal(2, sum(sizes), 3), normal(width, 3, 4, seed=1)
  window = {"stride": stride, "dilation": dilation, "pad_mode": pad_mode}
  cut = sum(sizes[:2])
  parts, state = [], None
  for i, part in enumerate(np.split(x, np.cumsum(sizes)[:-1], axis=1)):
    if i == 2:
      state = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.zeros((), leaf.dtype)), state)
    y, state = causal_conv(part, kernel, None, state, final=i == 2, **window)
    parts.append(y)
  got = np.concatenate(parts, axis=1)
  steps = cut // stride
  np.testing.assert_allclose(got[1:], causal_conv(x[1:], kernel, **window)[0], **ROUNDING)
  fresh = causal_conv(x[:1, cut:], kernel, **window)[0]
  np.testing.assert_allclose(got[:1, steps:], fresh, **ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
@pytest.mark.parametrize(("width", "stride", "dilation"), WINDOWS)
@given(data=st.data())
@few
def test_same_conv_in_chunks_equals_the_whole(data, width, stride, dilation, pad_mode):
  # Reflection needs parts as long as the convolution reaches; between zeros, some give no step.
  least = ((width - 1) * dilation + 1) // stride + 2 if pad_mode == "reflect" else 1
  sizes = [stride * (least + more) for more in data.draw(st.permutations([0, 1, 3]))]
  sizes[-1] -= data.draw(st.sampled_from([0, stride - 1]))
  x, kernel, bias = normal(2, sum(sizes), 3), normal(width, 3, 4, seed=1), normal(4, seed=2)
  window = {"stride": stride, "dilation": dilation, "pad_mode": pad_mode}
  whole, _ = same_conv(x, kernel, bias, **window)
  parts, state = [], None
  for i, part in enumerate(np.split(x, np.cumsum(sizes)[:-1], axis=1)):
    y, state = same_conv(part, kernel, bias, state, final=i == 2, **window)
    parts.append(y)
  np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, **ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "stride"), [(4, 2), (10, 5), (5, 2), (2, 2), (7, 2)])
@given(data=st.data())
@few
def test_same_conv_transpose_in_chunks_equals_the_whole(data, width, stride):
  sizes = data.draw(st.permutations([2, 3, 4]))
  x, kernel, bias = normal(2, sum(sizes), 3), normal(width, 3, 4, seed=1), normal(4, seed=2)
  whole, _ = same_conv_transpose(x, kernel, bias, stride=stride)
  excess = width - stride
  untrimmed = conv_transpose_by_definition(x, kernel, stride) + bias
  untrimmed = np.pad(untrimmed, ((0, 0), (0, excess), (0, 0)))
  left = excess - excess // 2
  np.testing.assert_allclose(whole, untrimmed[:, left : left + sum(sizes) * stride], **CLOSE)
  parts, state = [], None
  for i, part in enumerate(np.split(x, np.cumsum(sizes)[:-1], axis=1)):
    y, state = same_conv_transpose(part, kernel, bias, state, stride=stride, final=i == 2)
    parts.append(y)
  np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, **ROUNDING)


@pytest.mark.parametrize("function", [causal_conv, same_conv])
@pytest.mark.parametrize("pad_mode", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize(("width", "stride", "dilation"), [(7, 1, 1), (10, 5, 1), (3, 1, 4)])
def test_rows_of_their_own_lengths_are_convolved_as_if_alone(
  function, width, stride, dilation, pad_mode
):
  lengths = [1, 4, 13, 23]
  x, kernel = normal(4, 23, 3), normal(width, 3, 4, seed=1)
  window = {"stride": stride, "dilation": dilation, "pad_mode": pad_mode}
  got, _ = function(x, kernel, length=np.array(lengths), **window)
  for i, length in enumerate(lengths):
    alone, _ = function(x[i : i + 1, :length], kernel, **window)
    np.testing.assert_allclose(got[i : i + 1, : alone.shape[1]], alone, **ROUNDING)


def test_rows_of_their_own_lengths_are_upsampled_as_if_alone():
  x, kernel = normal(3, 6, 3), normal(10, 3, 4, seed=1)
  got, _ = same_conv_transpose(x, kernel, stride=5, length=np.array([1, 4, 6]))
  for i, length in enumerate([1, 4, 6]):
    alone, _ = same_conv_transpose(x[i : i + 1, :length], kernel, stride=5)
    np.testing.assert_allclose(got[i : i + 1, : length * 5], alone, **ROUNDING)


@pytest.mark.parametrize(("width", "stride"), [(4, 2), (10, 5), (5, 2), (2, 2)])
@given(data=st.data())
@few
def test_causal_conv_transpose_in_chunks_equals_the_whole(data, width, stride):
  sizes = data.draw(st.permutations([1, 1, 3, 4]))
  x, kernel, bias = normal(2, 9, 3), normal(width, 3, 4, seed=1), normal(4, seed=2)
  whole, _ = causal_conv_transpose(x, kernel, bias, stride=stride)
  parts, state, start = [], None, 0
  for size in sizes:
    part, state = causal_conv_transpose(
      x[:, start : start + size], kernel, bias, state, stride=stride
    )
    parts.append(part)
    start += size
  np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, **ROUNDING)


def test_a_chunk_that_does_not_fit_is_named():
  kernel = normal(4, 1, 1)
  with pytest.raises(ValueError, match="a chunk of 3 is no multiple of the stride 2"):
    F.causal_conv(normal(1, 3, 1), kernel, stride=2, final=False)
  with pytest.raises(ValueError, match="too short: 2 steps, a layer needs 3"):
    F.causal_conv(normal(1, 2, 1), kernel, stride=2, pad_mode="reflect", final=False)


def test_pad_reflects_without_repeating_the_edge():
  x = np.arange(1.0, 6.0)[None, :, None]
  got = F.pad(x, 2, 1, "reflect")[0, :, 0]
  np.testing.assert_array_equal(got, [3, 2, 1, 2, 3, 4, 5, 4])


def test_pad_lengthens_a_short_signal_by_zeros_and_cuts_them_back():
  x = np.array([1.0, 2.0])[None, :, None]
  # 1 2 0 0 reflected by 3 at the left and 1 at the right, then the two added zeros off the end.
  got = F.pad(x, 3, 1, "reflect")[0, :, 0]
  np.testing.assert_array_equal(got, [0, 0, 2, 1, 2, 0])
  np.testing.assert_array_equal(F.pad(x, 3, 1, "zero")[0, :, 0], [0, 0, 0, 1, 2, 0])


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_pad_adds_exactly_what_it_is_told(length, mode):
  assert F.pad(normal(1, length, 2), 4, 2, mode).shape == (1, length + 6, 2)
  np.testing.assert_array_equal(F.pad(normal(1, length, 2), 0, 0, mode), normal(1, length, 2))


@pytest.mark.parametrize("groups", [2, 3])
def test_grouped_channels_do_not_meet(groups):
  x, kernel, bias = normal(2, 8, 6), normal(5, 6 // groups, 12, seed=1), normal(12, seed=2)
  for function in (causal_conv, causal_conv_transpose):
    got, state = function(x, kernel, bias, stride=2, groups=groups)
    parts = [np.split(array, groups, axis=-1) for array in (x, kernel, bias)]
    alone = [function(*part, stride=2)[0] for part in zip(*parts, strict=True)]
    np.testing.assert_allclose(got, np.concatenate(alone, axis=-1), **ROUNDING)
    tail, _ = function(
      x[:, 4:], kernel, bias, state * 0 + x[:, 4 - state.shape[1] : 4], stride=2, groups=groups
    )
    np.testing.assert_allclose(tail, got[:, -tail.shape[1] :], **ROUNDING)


@pytest.mark.parametrize("dilation", [1, 3])
def test_causal_depthwise_conv_filters_each_channel_alone_in_chunks_too(dilation):
  x, kernel, bias = normal(2, 9, 4), normal(3, 4, seed=1), normal(4, seed=2)
  whole, _ = F.causal_depthwise_conv(x, kernel, bias, dilation=dilation)
  # The same filters as a grouped convolution, one channel a group.
  want, _ = causal_conv(x, kernel[:, None], bias, dilation=dilation, groups=4)
  np.testing.assert_allclose(whole, want, **ROUNDING)
  first, state = F.causal_depthwise_conv(x[:, :2], kernel, bias, dilation=dilation)
  second, state = F.causal_depthwise_conv(x[:, 2:], kernel, bias, state, dilation=dilation)
  assert state.shape == (2, 2 * dilation, 4)
  np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)
