"""Waves from short-time spectra, whole or in chunks, as pure functions.

A spectrum has n // 2 + 1 bins of a frame of n samples; frames lie a hop apart, hop dividing n.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.functional.conv import absent_as_zero

# Below it nothing is divided by: no frame reaches there.
_LEAST = 1e-11


def inverse_frames(real, imag, window_length: int):
  """Frames [..., window_length] of spectra [..., bins], under a periodic Hann window."""
  # The TPU's compiler takes minutes for an FFT of this length.
  return jax.lax.platform_dependent(
    real,
    imag,
    tpu=functools.partial(inverse_by_product, window_length=window_length),
    default=functools.partial(_by_fft, window_length=window_length),
  )


def _by_fft(real, imag, window_length: int):
  frames = jnp.fft.irfft(jax.lax.complex(real, imag), window_length)
  return frames * jnp.asarray(_hann(window_length), frames.dtype)


def inverse_by_product(real, imag, window_length: int):
  """`inverse_frames` as a product with windowed waves."""
  bins = window_length // 2 + 1
  # The angle's whole turns are dropped while numbers are exact.
  turns = np.outer(np.arange(bins), np.arange(window_length)) % window_length
  waves = np.exp(2j * np.pi / window_length * turns) * _hann(window_length) / window_length
  # Each bin stands for its conjugate too, but for the first and the last of an even length.
  weight = np.where((np.arange(bins) == 0) | (2 * np.arange(bins) == window_length), 1, 2)
  waves = waves * weight[:, None]
  basis = np.concatenate([waves.real, -waves.imag]).astype(np.float32)
  return jnp.matmul(jnp.concatenate([real, imag], axis=-1), basis, precision="highest")


def overlap_frames(frames, hop_length: int, state=None, *, final: bool = True, length=None):
  """Adds windowed frames, divided by the sum of the squared windows that meet in a sample.

  Both ends lose half of what a frame is longer than a hop, so that F frames give F hops in all; as
  the cut at the left delays the output, the first part of a signal gives fewer samples than its
  share and the last one more.

  Args:
    frames: `[B, F, n]`, as `inverse_frames` gives them.
    state: the last frames before, and which of them are there; all of a signal that has not had
      enough for a sample yet, which are fewer.
    length: `[B]`, frames that exist in each row; None for all.

  Returns:
    `([B, T], state)`; the state stays None until the first frame comes.

  Source: Vocos, https://arxiv.org/abs/2306.00814; "same" padding of vocos/spectral_ops.py.

  Raises:
    ValueError: if the hop does not divide a frame's length.
  """
  batch, count, size = frames.shape
  if size % hop_length:
    raise ValueError(f"frames of {size} samples are no multiple of the hop, {hop_length}")
  parts = size // hop_length
  excess = size - hop_length
  delay = excess - excess // 2
  more = -(-delay // hop_length)
  there = jnp.ones((batch, count), frames.dtype)
  if length is not None:
    there = (jnp.arange(count) < length[:, None]).astype(frames.dtype)
  frames = absent_as_zero(frames, length)
  start = 0
  if state is not None and state[0].shape[1] < parts - 1:
    frames = jnp.concatenate([state[0], frames], axis=1)
    there = jnp.concatenate([state[1], there], axis=1)
    state, count = None, frames.shape[1]
  if state is None:
    if count == 0 or (count < more and not final):
      return jnp.zeros((batch, 0), frames.dtype), (frames, there) if count else None
    nothing = jnp.zeros((batch, parts - 1), frames.dtype)
    state, start = (jnp.zeros((batch, parts - 1, size), frames.dtype), nothing), delay
  stop = count * hop_length
  if final:
    frames = jnp.pad(frames, ((0, 0), (0, more), (0, 0)))
    there, stop = jnp.pad(there, ((0, 0), (0, more))), stop + delay
  frames = jnp.concatenate([state[0], frames], axis=1)
  there = jnp.concatenate([state[1], there], axis=1)
  blocks = frames.reshape(batch, -1, parts, hop_length)
  squares = jnp.asarray(_hann(size) ** 2, frames.dtype).reshape(parts, hop_length)
  steps = frames.shape[1] - parts + 1

  def added(part):
    """A sample's sum over the frames that meet there, the part `i` of a frame coming i later."""
    return sum(part(slice(parts - 1 - i, parts - 1 - i + steps), i) for i in range(parts))

  y = added(lambda here, i: blocks[:, here, i])
  weight = added(lambda here, i: there[:, here, None] * squares[i])
  y = jnp.where(weight > _LEAST, y / jnp.maximum(weight, _LEAST), 0)
  after = frames[:, steps:], there[:, steps:]
  return y.reshape(batch, -1)[:, start:stop], after


def _hann(length: int) -> np.ndarray:
  return np.hanning(length + 1)[:-1]
