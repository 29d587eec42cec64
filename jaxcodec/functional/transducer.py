"""The loss of a transducer (RNN-T), and what frames' labels spell under CTC.

Shapes: B rows, T frames, U labels, V labels and the blank, which is the last one.
"""

import jax
import jax.numpy as jnp

_NEVER = -1e9  # The logarithm of nothing, finite so that gradients are.


def transducer_loss(logits, lengths, labels, label_lengths, fast_emit: float = 0.0):
  """Minus the log-likelihood [B] of labels over all their alignments.

  a(t, u) = log(exp(a(t - 1, u) + blank(t - 1, u)) + exp(a(t, u - 1) + emit(t, u - 1))); the
  likelihood is exp(a(T - 1, U) + blank(T - 1, U)). Each frame's recursion over labels is one
  cumulative sum.

  Args:
    logits: `[B, T, U + 1, V]`.
    lengths, label_lengths: int [B], what of each row exists.
    labels: int [B, U].
    fast_emit: the gradients of labels, not of blanks, are 1 + this as large: they come sooner.

  Source: Graves, https://arxiv.org/abs/1211.3711, section 2.4; FastEmit,
  https://arxiv.org/abs/2010.11148, equation 10.
  """
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  blank = log_p[..., -1]
  emit = jnp.take_along_axis(log_p[:, :, :-1], labels[:, None, :, None], axis=-1)[..., 0]
  emit = emit + fast_emit * (emit - jax.lax.stop_gradient(emit))
  there = jnp.arange(labels.shape[1]) < label_lengths[:, None]
  emit = jnp.where(there[:, None], emit, 0)
  # Emissions so far in a frame, were none a blank: what a label further on adds to.
  reached = jnp.pad(jnp.cumsum(emit, axis=-1), ((0, 0), (0, 0), (1, 0)))

  def frame(alpha, given):
    reached, blank, t = given
    # Only the start enters the first frame.
    first = jnp.where(jnp.arange(alpha.shape[1]) == 0, 0.0, _NEVER)
    entered = jnp.where(t == 0, first, alpha)
    alpha = reached + jax.lax.cumlogsumexp(entered - reached, axis=1)
    return alpha + blank, alpha + blank

  start = jnp.zeros(blank[:, 0].shape)
  over_time = (jnp.moveaxis(x, 1, 0) for x in (reached, blank))
  _, left = jax.lax.scan(frame, start, (*over_time, jnp.arange(logits.shape[1])))
  row = jnp.arange(len(labels))
  return -left[jnp.maximum(lengths - 1, 0), row, label_lengths]


def ctc_labels(best, there, last):
  """What frames' likeliest labels spell: `(labels [B, T], last [B])`, -1 where nothing is new.

  Args:
    best: int [B, T], the likeliest of each frame; the blank is `blank` below.
    there: bool [B, T], frames that exist: the first ones of a row.
    last: int [B], the frame's before the chunk, as returned; -1 at the start.
  """
  best = jnp.where(there, best, -1)
  before = jnp.concatenate([last[:, None], best[:, :-1]], axis=1)
  new = there & (best != before)
  end = jnp.take_along_axis(best, jnp.maximum(there.sum(axis=1, keepdims=True) - 1, 0), axis=1)
  return jnp.where(new, best, -1), jnp.where(there.any(axis=1), end[:, 0], last)
