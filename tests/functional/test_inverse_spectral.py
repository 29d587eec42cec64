import functools

import jax
import numpy as np
import pytest

from jaxcodec import functional as F
from jaxcodec.functional.inverse_spectral import inverse_by_product

SIZE, HOP, COUNT = 24, 6, 9
HANN = np.hanning(SIZE + 1)[:-1]


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def overlap(final):
  return jax.jit(functools.partial(F.overlap_frames, hop_length=HOP, final=final))


def test_a_frame_is_the_inverse_transform_under_a_window():
  real, imag = normal(2, 3, 13), normal(2, 3, 13, seed=1)
  want = np.fft.irfft(real + 1j * imag, SIZE) * HANN
  by_fft, by_product = jax.jit(
    lambda *parts: (F.inverse_frames(*parts, SIZE), inverse_by_product(*parts, SIZE))
  )(real, imag)
  np.testing.assert_allclose(by_fft, want, atol=1e-6)
  np.testing.assert_allclose(by_product, want, atol=1e-6)


def test_windowed_frames_of_a_signal_add_up_to_it():
  x = normal(2, COUNT * HOP)
  side = (SIZE - HOP) // 2
  padded = np.pad(x, ((0, 0), (side, side)))
  frames = np.stack([padded[:, i * HOP : i * HOP + SIZE] for i in range(COUNT)], axis=1)
  y, _ = overlap(True)((frames * HANN**2).astype(np.float32))
  # Zeros that were outside the signal are divided by what little of a window lies there.
  np.testing.assert_allclose(y, x, atol=1e-5)


def test_chunks_and_rows_that_end_early_add_up_as_the_whole():
  frames = normal(2, COUNT, SIZE)
  whole, _ = overlap(True)(frames)
  first, state = overlap(False)(frames[:, :4])
  assert first.shape[1] == 4 * HOP - (SIZE - HOP) // 2
  last, _ = overlap(True)(frames[:, 4:], state=state)
  np.testing.assert_allclose(np.concatenate([first, last], axis=1), whole, atol=1e-6)
  # Before the second frame there is no sample, and what is cut at the left is not all there.
  state, parts = None, []
  for start in range(COUNT):
    part, state = overlap(start == COUNT - 1)(frames[:, start : start + 1], state=state)
    parts.append(part)
  assert [part.shape[1] for part in parts] == [0, 3, *[HOP] * 6, HOP + (SIZE - HOP) // 2]
  np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-6)
  rows, _ = overlap(True)(frames, length=np.array([5, COUNT]))
  alone, _ = overlap(True)(frames[:, :5])
  np.testing.assert_allclose(rows[0, : 5 * HOP], alone[0], atol=1e-6)
  np.testing.assert_allclose(rows[1], whole[1], atol=1e-6)
  nothing, state = F.overlap_frames(frames[:, :0], HOP, final=False)
  assert nothing.shape == (2, 0)
  assert state is None


def test_a_hop_that_does_not_divide_a_frame_is_named():
  with pytest.raises(ValueError, match="frames of 24 samples are no multiple of the hop, 7"):
    F.overlap_frames(normal(1, 2, SIZE), 7)


def test_a_centred_depthwise_convolution_is_one_of_each_channel():
  x, kernel, bias = normal(2, 11, 3), normal(5, 3, seed=1), normal(3, seed=2)
  run = jax.jit(F.same_depthwise_conv, static_argnames="final")
  want = [[np.convolve(x[b, :, c], kernel[::-1, c], "same") for c in range(3)] for b in range(2)]
  whole, _ = run(x, kernel, bias)
  np.testing.assert_allclose(whole, np.moveaxis(want, 1, 2) + bias, atol=1e-5)
  parts, state = [], None
  for start, stop in ((0, 1), (1, 6), (6, 11)):
    y, state = run(x[:, start:stop], kernel, bias, state, final=stop == 11)
    parts.append(y)
  np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-6)
  rows, _ = run(x, kernel, bias, length=np.array([7, 11]))
  alone, _ = run(x[:, :7], kernel, bias)
  np.testing.assert_allclose(rows[0, :7], alone[0], atol=1e-6)
