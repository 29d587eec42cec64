"""Runs that learn to foretell codes: their configuration, start and step.

The state is that of every run, with `()` for what only codecs have, so meshes, checkpoints, logs
and the loop are the same.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from jaxcodec.audio.code_lm import CodeLm, LmLayer
from jaxcodec.audio.code_transformer import CodeTransformer
from jaxcodec.data.codes import Codes
from jaxcodec.layers.encoder_decoder import Layer
from jaxcodec.training.config import Adam, BaseRun, Mesh
from jaxcodec.training.sharding import BATCH, gathered, rows_apart
from jaxcodec.training.state import TrainState, plain_state
from jaxcodec.training.step import averaged, settled

# Matrices of the scanned layers, [layer, in, out], and the tables.
_RULES = (
  (r"(query|key|value|gate|up)/kernel$", P(None, "fsdp", "model")),
  (r"(out|down)/kernel$", P(None, "model", "fsdp")),
  (r"head/kernel$", P("fsdp", "model")),
  # Whole: what is looked up would lie over devices by its features, and rows be on all of them.
  (r"tables$", P()),
)
MESH = Mesh(rules=_RULES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainCodes(BaseRun):
  """A run; the fields that are not said here are those of `config.BaseRun` and `config.Train`.

  Attributes:
    model: what learns.
    data: what to learn from.
    drop_read: share of rows whose frames read are absent, so that the model can be guided by them.
  """

  model: CodeTransformer | CodeLm
  data: Codes
  optimizer: Adam
  drop_read: float = 0.0
  mesh: Mesh = MESH
  remat: bool = True
  compute_dtype: Any = jnp.bfloat16
  keep_best: int = 1

  samples_every: ClassVar[int] = 0


def init_state(key, config: TrainCodes) -> TrainState:
  """The start of a run."""
  stages = config.model.num_codebooks
  # Shapes of weights depend on no length.
  short = jnp.zeros((1, 2, stages), jnp.int32)
  params = config.model.init(key, short, 1, method="foretell")["params"]
  return plain_state(params, config.optimizer.transformation(config.num_steps))


def train_step(state: TrainState, batch, key, *, config: TrainCodes) -> tuple[TrainState, dict]:
  """Takes a step; see `step.train_step`.

  Args:
    batch: int32 `[B, read + written, Q]`, -1 where there is no code.
  """
  if config.drop_read:
    key = jax.random.fold_in(key, state.step)
    dropped = jax.random.bernoulli(key, config.drop_read, (len(batch), 1, 1))
    frames = jnp.arange(batch.shape[1])[:, None]
    batch = jnp.where(dropped & (frames < config.data.read), -1, batch)
  return learnt(state, batch, functools.partial(_loss, config=config), config)


def learnt(state: TrainState, batch, loss, config) -> tuple[TrainState, dict]:
  """The state after a step, and metrics.

  Args:
    batch: a tree of arrays [B, ...].
    loss: `(params, part of the batch) -> (scalar, dict of scalars)`.
    config: of the run: accumulate, optimizer, num_steps, average_decay.
  """
  # Row i goes to part i mod parts, so that every device keeps its rows.
  parts = jax.tree.map(
    lambda x: x.reshape(-1, config.accumulate, *x.shape[1:]).swapaxes(0, 1), batch
  )
  gradient = jax.value_and_grad(loss, has_aux=True)

  def add(total, part):
    found = gradient(state.params, part)
    return jax.tree.map(lambda a, b: a + b / config.accumulate, total, found), None

  shapes = jax.eval_shape(gradient, state.params, jax.tree.map(lambda x: x[0], parts))
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  ((total, metrics), gradients), _ = jax.lax.scan(add, zeros, parts)
  optimizer = config.optimizer.transformation(config.num_steps)
  updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
  params = optax.apply_updates(state.params, updates)
  new = state._replace(
    params=params,
    optimizer=optimizer_state,
    average=averaged(state, params, config.average_decay),
  )
  metrics |= {"objective": total, "gradient_norm": optax.tree.norm(gradients)}
  return settled(state, new, gradients, {"cross_entropy": total}, metrics)


def _loss(params, codes, config: TrainCodes):
  """`(nats a code, metrics)`: means over the codes to foretell that are there."""
  params = jax.tree.map(lambda p: p.astype(config.compute_dtype), params)
  if config.mesh.gather_once:
    params = gathered(params, config.mesh)
  model = config.model.clone(remat=config.remat)
  with nn.intercept_methods(_by_rows):
    logits, target = model.apply({"params": params}, codes, config.data.read, method="foretell")
  there = target >= 0
  labels = jnp.where(there, target, 0)
  each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  count = jnp.maximum(there.sum(), 1)
  right = jnp.where(there, logits.argmax(axis=-1) == labels, False)
  return jnp.where(there, each, 0).sum() / count, {"accuracy": right.sum() / count}


def _by_rows(call, args, kwargs, context):
  """Keeps each layer's rows on their devices, where weights that are split would have them gather.

  Within a mesh alone, the one that `jax.set_mesh` names.
  """
  found = rows_apart(call, args, kwargs, context)
  if not isinstance(context.module, Layer | LmLayer) or jax.sharding.get_abstract_mesh().empty:
    return found
  # The scan over layers is met here as well, with results of its own.
  place = functools.partial(jax.lax.with_sharding_constraint, shardings=BATCH)
  return jax.tree.map(lambda x: place(x) if x.ndim == 3 else x, found)
