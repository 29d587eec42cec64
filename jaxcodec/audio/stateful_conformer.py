"""Stateful Conformer: speech to text that streams with caches, its answers those of the whole.

A FastConformer whose attention is limited to chunks, so that a chunk needs what layers remember and
nothing that is to come. One model serves several look-aheads: a chunk is `right + 1` frames of 80
ms, and it sees `left` frames before. Labels come by CTC, by a transducer, or by both heads of one
encoder. Source: https://arxiv.org/abs/2312.17279; NVIDIA's NeMo,
examples/asr/conf/fastconformer/hybrid_cache_aware_streaming.

Shapes: B rows, M mel frames, T frames after subsampling, D features, U labels, V labels and the
blank, which is the last one.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcodec import functional as F
from jaxcodec.functional.transducer import transducer_loss
from jaxcodec.layers import conformer
from jaxcodec.layers.conformer import LEAD, REDUCTION, ConformerLayer, Subsampling

MAX_SYMBOLS = 10  # Labels of a frame, at most.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConformerConfig:
  """The network.

  Attributes:
    bands: of the log-mel spectrum.
    channels: of the subsampling.
    width: D; num_heads heads.
    hidden: of the feed-forward parts.
    kernel: frames of the depthwise convolutions.
    lefts, rights: the contexts to train for, in frames: each left a multiple of its right + 1.
    ctc: whether there is a CTC head.
    prediction: width of the transducer's LSTM and joint; 0 for no transducer.
    ctc_weight: of CTC's loss beside the transducer's, whose is the rest.
    fast_emit: see `transducer_loss`.
    dropout, head_dropout: shares of the encoder's features and of the transducer's that are zero in
      training, which is a call with a key: `apply(..., rngs={"dropout": key})`.
  """

  labels: int
  bands: int = 80
  channels: int = 256
  width: int = 512
  num_heads: int = 8
  hidden: int = 2048
  num_layers: int = 17
  kernel: int = 9
  lefts: tuple[int, ...] = (70,)
  rights: tuple[int, ...] = (13,)
  ctc: bool = True
  prediction: int = 640
  ctc_weight: float = 0.3
  fast_emit: float = 0.005
  dropout: float = 0.1
  head_dropout: float = 0.2

  def __post_init__(self):
    if len(self.lefts) != len(self.rights) or not self.lefts:
      raise ValueError(f"lefts={self.lefts} and rights={self.rights} are to be pairs")
    for left, right in zip(self.lefts, self.rights, strict=True):
      if left % (right + 1):
        raise ValueError(f"left={left} is no multiple of the chunk, {right + 1} frames")
    if not (self.ctc or self.prediction):
      raise ValueError("neither ctc nor a transducer: nothing gives labels")


class Stream(NamedTuple):
  """What streams remember.

  Attributes:
    frames: int [B], frames so far.
    tails: of the subsampling.
    past: keys and values [layers, B, left, H, E], and inputs [layers, B, kernel - 1, D].
  """

  frames: jax.Array
  tails: Any
  past: Any


class Spoken(NamedTuple):
  """What a transducer's greedy search remembers: the LSTM's state and output."""

  state: Any
  output: jax.Array


class StatefulConformer(nn.Module):
  """The encoder and its heads.

  Attributes:
    config: of the network.
  """

  config: ConformerConfig

  def setup(self):
    c = self.config
    self.subsampling = Subsampling(c.channels, c.width)
    layers = nn.scan(
      ConformerLayer,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      length=c.num_layers,
    )
    self.layers = layers(c.num_heads, c.hidden, c.kernel, c.dropout)
    still = not self.has_rng("dropout")
    self.drop = nn.Dropout(c.dropout, deterministic=still)
    self.drop_head = nn.Dropout(c.head_dropout, deterministic=still)
    if c.ctc:
      self.ctc_head = nn.Dense(c.labels + 1)
    if c.prediction:
      init = nn.initializers.uniform(2 * c.prediction**-0.5)

      def centred(key, shape):
        return init(key, shape) - c.prediction**-0.5

      kernel = (c.prediction, 4 * c.prediction)
      self.embedding = self.param("embedding", nn.initializers.normal(1.0), (c.labels, kernel[0]))
      self.input_kernel = self.param("input_kernel", centred, kernel)
      self.recurrent_kernel = self.param("recurrent_kernel", centred, kernel)
      self.lstm_bias = self.param("lstm_bias", centred, kernel[1:])
      self.joint_encoder = nn.Dense(c.prediction)
      self.joint_prediction = nn.Dense(c.prediction)
      self.joint_out = nn.Dense(c.labels + 1)

  def init_stream(self, batch: int, left: int) -> Stream:
    """The start of streams that see `left` frames before a chunk."""
    c = self.config
    size = c.width // c.num_heads
    keys = jnp.zeros((c.num_layers, batch, left, c.num_heads, size))
    inputs = jnp.zeros((c.num_layers, batch, c.kernel - 1, c.width))
    tails = Subsampling(c.channels, c.width, parent=None).init_state(batch, c.bands)
    return Stream(jnp.zeros(batch, jnp.int32), tails, (keys, keys, inputs))

  def step(self, mel, length, stream: Stream):
    """A chunk of right + 1 frames: `(y [B, T, D], there [B, T], stream)`.

    All that is not at an end is answered at once; what comes after a row's end does not exist.

    Args:
      mel: [B, 8 T, bands]; a stream's first chunk has `LEAD` places before its first mel frame.
      length: int [B], mel frames that exist from the start to this chunk's end; less than the chunk
        has at a row's end, which adds the frames that see zeros after it.
    """
    left = stream.past[0].shape[2]
    steps = mel.shape[1] // REDUCTION
    place = jnp.arange(left + steps) - left
    there = (stream.frames[:, None] + place >= 0) & (
      stream.frames[:, None] + place < conformer.num_frames(length)[:, None]
    )
    visible = there[:, None, :] & there[:, left:, None]
    return self._encoded(mel, length, stream, visible, there[:, left:])

  def encode(self, mel, length, left, right):
    """Whole signals [B, M, bands]: `(y [B, T, D], there [B, T])`, as chunks of right + 1 give.

    Args:
      length: int [B], mel frames of each row.
      left, right: the context, integers, which may be traced.
    """
    most = conformer.num_frames(mel.shape[1])
    mel = jnp.pad(mel, ((0, 0), (LEAD, REDUCTION * most - LEAD - mel.shape[1]), (0, 0)))
    frame = jnp.arange(most)
    there = frame < conformer.num_frames(length)[:, None]
    chunk = frame // (right + 1)
    behind = chunk[:, None] - chunk
    near = (behind >= 0) & (behind <= left // (right + 1))
    visible = near & there[:, None, :] & there[:, :, None]
    y, _, _ = self._encoded(mel, length, self.init_stream(len(mel), 0), visible, there)
    return y, there

  def _encoded(self, mel, length, stream: Stream, visible, there):
    x, tails = self.subsampling(mel, stream.frames, length, stream.tails)
    x, past = self.layers(self.drop(x), stream.past, visible, there)
    return x, there, Stream(stream.frames + x.shape[1], tails, past)

  def ctc_logits(self, y):
    return self.ctc_head(y)

  def predicted(self, labels, state=None):
    """The prediction network: labels [B, U], -1 for the start, to `([B, U, P], state)`."""
    x = jnp.where(labels[..., None] < 0, 0, self.embedding[jnp.maximum(labels, 0)])
    y, state = F.lstm(x, self.input_kernel, self.recurrent_kernel, self.lstm_bias, state)
    return self.drop_head(y), state

  def joined(self, y, prediction):
    """Logits of frames and predictions, whose axes before the last broadcast."""
    hidden = nn.relu(self.joint_encoder(y) + self.joint_prediction(prediction))
    return self.joint_out(self.drop_head(hidden))

  def init_spoken(self, batch: int) -> Spoken:
    y, state = self.predicted(jnp.full((batch, 1), -1))
    return Spoken(state, y[:, 0])

  def search(self, y, there, spoken: Spoken):
    """Greedy labels of frames, `(int [B, T, MAX_SYMBOLS], spoken)`; -1 where there is none.

    The transducer's state goes on from chunk to chunk.
    """
    frames = jnp.moveaxis(self.joint_encoder(y), 1, 0)

    def symbol(carry, _):
      spoken, more, frame = carry
      logits = self.joint_out(nn.relu(frame + self.joint_prediction(spoken.output)))
      best = logits.argmax(axis=-1)
      more = more & (best < self.config.labels)
      y, state = self.predicted(best[:, None] % self.config.labels, spoken.state)
      new = Spoken(state, y[:, 0])
      keep = lambda a, b: jnp.where(more[:, None], a, b)  # noqa: E731
      return (jax.tree.map(keep, new, spoken), more, frame), jnp.where(more, best, -1)

    def one(spoken, given):
      frame, there = given
      (spoken, _, _), labels = jax.lax.scan(symbol, (spoken, there, frame), None, MAX_SYMBOLS)
      return spoken, labels.T

    spoken, labels = jax.lax.scan(one, spoken, (frames, there.T))
    return jnp.moveaxis(labels, 0, 1), spoken

  def __call__(self, mel, length, labels, left, right):
    """Means of each head's loss over rows, by name; CTC's is 0 for a text longer than the signal.

    Args:
      mel, length, left, right: see `encode`.
      labels: int [B, U], -1 after a row's end.
    """
    y, there = self.encode(mel, length, left, right)
    spelled, losses = labels >= 0, {}
    if self.config.ctc:
      absent = (~there).astype(jnp.float32), (~spelled).astype(jnp.float32)
      known = jnp.maximum(labels, 0)
      blank = self.config.labels
      each = optax.ctc_loss(self.ctc_logits(y), absent[0], known, absent[1], blank_id=blank)
      # A text that needs more frames than there are has no likelihood, and would drown the others.
      twice = (labels[:, 1:] == labels[:, :-1]) & spelled[:, 1:]
      fits = spelled.sum(axis=1) + twice.sum(axis=1) <= there.sum(axis=1)
      losses["ctc"] = jnp.where(fits, each, 0).mean()
    if self.config.prediction:
      before = jnp.pad(labels, ((0, 0), (1, 0)), constant_values=-1)
      prediction, _ = self.predicted(before)
      logits = self.joined(y[:, :, None], prediction[:, None])
      counts = there.sum(axis=1), jnp.maximum(labels, 0), spelled.sum(axis=1)
      losses["transducer"] = transducer_loss(logits, *counts, self.config.fast_emit).mean()
    return losses


def objective(config: ConformerConfig, losses: dict):
  """The loss of those of the heads, by name."""
  if len(losses) == 1:
    return next(iter(losses.values()))
  return config.ctc_weight * losses["ctc"] + (1 - config.ctc_weight) * losses["transducer"]
