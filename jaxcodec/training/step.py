"""A step of training, codec and discriminators together: `(state, batch, key) -> (state, metrics)`.

The codec runs once. Each loss of the decoded signal gives a gradient by that signal; they are
weighed there (plainly, by EnCodec's balancer or by VQGAN's rule), and their sum goes back through
the codec, once. The discriminators judge both signals once as well: codec and discriminators learn
from each other as they were before the step, where the published programs update the
discriminators first and judge both signals again.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict

from jaxcodec import functional as F
from jaxcodec.data.sound import Packed, signal_of
from jaxcodec.data.taught import Taught
from jaxcodec.training import codebooks as codebooks_lib, distillation, losses
from jaxcodec.training.config import Train
from jaxcodec.training.remat import rematerialized
from jaxcodec.training.state import TrainState, optimizers, output_terms


def train_step(state: TrainState, batch, key, *, config: Train) -> tuple[TrainState, dict]:
  """Takes a step.

  Args:
    state: what `init_state` or the last step gave; may be donated.
    batch: float32, sound `[B, T, C]` with T a multiple of the hop length, pictures `[B, H, W, C]`,
      or `data.sound.Packed` sound, whose frames without a clip count in no loss of the bottleneck
      and in no codebook, or `data.taught.Taught` sound.
    key: of the run; what is drawn in a step follows from it and `state.step`.
    config: static.

  Returns:
    `(state, metrics)`: float32 scalars by name, and under "finite" whether each gradient leaf was.
    A step with a number that is not finite changes nothing but the counters.
  """
  key = jax.random.fold_in(key, state.step)
  gradients, found = _accumulated(state, batch, key, config)
  new = _updated(state, gradients, found, key, config)
  metrics = found["metrics"] | {
    "objective": found["objective"],
    "gradient_norm": optax.tree.norm(gradients["codec"]),
  }
  return settled(state, new, gradients, found["losses"], metrics)


def settled(state: TrainState, new: TrainState, gradients, terms, metrics):
  """`(state, metrics)` at a step's end: `new` if all numbers are finite, else the old state."""
  finite = {
    "gradients": [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients)],
    "losses": {name: jnp.isfinite(value) for name, value in terms.items()},
  }
  flags = jnp.stack(jax.tree.leaves(finite))
  # A product stands by itself. XLA would put `all` into every array's update, hundreds of times.
  good = jnp.vdot(flags.astype(jnp.float32), flags.astype(jnp.float32)) == flags.size
  new = jax.tree.map(lambda a, b: a if a is b else jnp.where(good, a, b), new, state)
  bad = (~good).astype(jnp.int32)
  new = new._replace(
    step=state.step + 1,
    skipped=state.skipped + bad,
    skipped_in_row=jnp.where(good, 0, state.skipped_in_row + 1),
  )
  metrics = terms | metrics
  metrics |= {
    "skipped": new.skipped.astype(jnp.float32),
    "skipped_in_row": new.skipped_in_row.astype(jnp.float32),
  }
  return new, metrics | {"finite": finite}


def averaged(state: TrainState, params, most: float):
  """The moving averages with new parameters in them, decaying by `most` and less at first."""
  # Short runs must not be left with what they began from.
  decay = jnp.minimum(most, (1 + state.step) / (10 + state.step))
  return jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), state.average, params)


def _updated(state: TrainState, gradients, found, key, config) -> TrainState:
  codec_optimizer, discriminator_optimizer = optimizers(config, state.params)
  updates, optimizer = codec_optimizer.update(gradients["codec"], state.optimizer, state.params)
  params = optax.apply_updates(state.params, updates)
  quantization, usage = config.quantization, state.usage
  quantizing = state.step >= quantization.start_step
  usage = jnp.where(quantizing, usage + 0.01 * (found["counts"] - usage), usage)
  ema = state.ema
  if quantization.decay:
    statistics = F.CodeStatistics(*found["statistics"])
    written = F.ema_update(state.ema, statistics, quantization.decay)
    still = codebooks_lib.read(config, state.params), state.ema
    written = jax.tree.map(lambda a, b: jnp.where(quantizing, a, b), written, still)
    if quantization.dead_share:
      written = _restarted(written, state, found, jax.random.fold_in(key, 1), config)
    codebooks, ema = written
    params = codebooks_lib.write(config, params, codebooks)
  average = averaged(state, params, config.average_decay)
  if quantization.decay:
    # They are averages already.
    average = codebooks_lib.write(config, average, codebooks)
  state = state._replace(
    params=params,
    optimizer=optimizer,
    average=average,
    ema=ema,
    usage=usage,
    balancer=found["balancer"],
  )
  adversary = config.adversary
  if adversary is None:
    return state
  assert discriminator_optimizer is not None
  updates, optimizer = discriminator_optimizer.update(
    gradients["discriminators"], state.discriminator_optimizer, state.discriminators
  )
  discriminators = optax.apply_updates(state.discriminators, updates)
  learns = state.step >= adversary.start_step
  if adversary.update_share < 1:
    learns &= jax.random.bernoulli(jax.random.fold_in(key, 2), adversary.update_share)
  new = discriminators, optimizer
  old = state.discriminators, state.discriminator_optimizer
  discriminators, optimizer = jax.tree.map(lambda a, b: jnp.where(learns, a, b), new, old)
  return state._replace(discriminators=discriminators, discriminator_optimizer=optimizer)


def _restarted(written, state: TrainState, found, key, config: Train):
  quantization, step = config.quantization, state.step
  due = (step >= quantization.start_step) & (step % quantization.restart_every == 0)
  due &= step < quantization.restart_until * config.num_steps

  def restart(written):
    codebooks, ema = written
    inputs = codebooks_lib.inputs(config, state.params, found["z"], found["codes"])
    threshold = quantization.dead_share * ema.counts.mean(axis=-1, keepdims=True)
    exists = found.get("exists")
    valid = None if exists is None else exists.reshape(-1)
    return F.restart_dead_codes(key, codebooks, ema, inputs, threshold, valid)

  return jax.lax.cond(due, restart, lambda written: written, written)


def _accumulated(state: TrainState, batch, key, config: Train):
  """Gradients and findings of a batch, taken in parts; what is found is summed or averaged."""
  parts = config.accumulate
  if parts == 1:
    return _gradients(state, batch, key, config)
  # Row i goes to part i mod parts, so that every device keeps its rows.
  batch = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
  keys = jax.random.split(key, parts)

  def part(balancer, inputs):
    batch, key = inputs
    gradients, found = _gradients(state._replace(balancer=balancer), batch, key, config)
    return found.pop("balancer"), (gradients, found)

  balancer, (gradients, found) = jax.lax.scan(part, state.balancer, (batch, keys))
  mean = functools.partial(jax.tree.map, lambda x: x.mean(axis=0))
  total = functools.partial(jax.tree.map, lambda x: x.sum(axis=0))
  rows = {
    name: found[name].reshape(-1, *found[name].shape[2:])
    for name in ("z", "codes", "exists")
    if name in found
  }
  sums = {name: total(found[name]) for name in ("counts", "statistics")}
  means = {name: mean(found[name]) for name in ("losses", "metrics", "objective")}
  return mean(gradients), rows | sums | means | {"balancer": balancer}


def _gradients(state: TrainState, batch, key, config: Train) -> tuple[dict, dict]:
  """Gradients of codec and discriminators on one part of a batch, and what was found on the way."""
  x = signal_of(batch)
  forward = functools.partial(
    _forward,
    x=x,
    key=key,
    step=state.step,
    config=config,
    segments=batch.segments if isinstance(batch, Packed) else None,
    lesson=batch if isinstance(batch, Taught) else None,
  )
  (y, _), backward, aux = jax.vjp(forward, state.params, has_aux=True)
  weights: dict[str, float | jax.Array] = {**output_terms(config)}
  values, back = _near_terms(y, x, config)
  discriminator_gradients, found = {}, {}
  if config.adversary is not None:
    judged = _judged(state, x, y, config)
    discriminator_gradients, found = judged.gradients, judged.losses
    values, back = values | judged.terms, _both(back, judged.back)
    started = (state.step >= config.adversary.start_step).astype(jnp.float32)
    weights = {
      name: weight * started if name in judged.terms else weight for name, weight in weights.items()
    }
  balancer = state.balancer
  if config.losses.balanced:
    each = {name: back({name: jnp.ones(())}) for name in values}
    gradient, balancer = losses.balance(balancer, each, weights, config.losses.balanced)
  else:
    if config.losses.adaptive:
      weights |= {"adversarial": weights["adversarial"] * _adaptive(back, backward, weights)}
    gradient = back({name: jnp.asarray(weights[name], jnp.float32) for name in values})
  (codec_gradients,) = backward((gradient, jnp.ones(())))
  # What checkpoints are ranked by: how near the decoded signal is, adversaries aside, or what they
  # look at where nothing else compares signals.
  near = set(values) - {"adversarial", "features"} or set(values) & {"features"}
  aux["objective"] = sum((weights[name] * values[name] for name in sorted(near)), jnp.zeros(()))
  aux["losses"] |= values | found
  return {"codec": codec_gradients} | discriminator_gradients, aux | {"balancer": balancer}


def _forward(params, *, x, key, step, config: Train, segments=None, lesson=None):
  """`((y, weighted loss of the bottleneck), aux)` of a batch x; `segments` as of `Packed`."""
  quantization, weights = config.quantization, config.losses
  active = {}
  # Drawn at once: every draw is a long program of its own to compile.
  draw, passing = jax.random.uniform(key, (2, x.shape[0]))
  if quantization.active_choices:
    choices = jnp.asarray(quantization.active_choices)
    active["num_active"] = choices[(draw * len(choices)).astype(jnp.int32)]
  passes = (passing < quantization.pass_share) | (step < quantization.start_step)
  dtype = config.compute_dtype
  halves = {name: params[name] for name in ("encoder", "decoder")}
  params = params | jax.tree.map(lambda p: p.astype(dtype), halves)

  exists = None if segments is None else segments > 0

  def run(codec):
    z = codec.latents(x.astype(dtype))
    quantized = codec.quantizer(z, exists, **active)
    z_q = jnp.where(passes.reshape(-1, *(1,) * (z.ndim - 1)), z, quantized.z.astype(dtype))
    taught = None
    if config.distillation is not None:
      given = z.astype(jnp.float32), quantized.codes, x, lesson
      taught = distillation.loss(codec, *given, config.distillation)
    return z, codec.signal(z_q).astype(jnp.float32), quantized, taught

  with rematerialized(config.remat):
    z, y, quantized, taught = config.codec.apply({"params": params}, method=run)
  if y.shape != x.shape:
    # DAC's decoder lacks samples at the end where a stride is odd.
    y = jnp.pad(y[:, : x.shape[1]], ((0, 0), (0, max(0, x.shape[1] - y.shape[1])), (0, 0)))
  if exists is not None:
    y = jnp.where(jnp.repeat(exists, config.codec.hop_length, axis=1)[..., None], y, 0)
  # A bottleneck that is not in use yet must not pull the encoder to codebooks that mean nothing.
  using = (step >= quantization.start_step).astype(jnp.float32)
  parts = {"commitment": quantized.loss}
  for name, loss in (("codebook", quantized.codebook_loss), ("entropy", quantized.entropy_loss)):
    if loss is not None and getattr(weights, name):
      parts[name] = loss
  if taught is not None:
    parts["distillation"] = taught
  if quantized.bits is not None and weights.rate:
    parts["rate"] = quantized.bits.mean()
  side = using * sum(getattr(weights, name) * loss for name, loss in parts.items())
  aux: dict[str, Any] = {
    "losses": parts,
    "metrics": quantized.metrics,
    "counts": F.code_counts(quantized.codes, max(config.codec.codebook_sizes)),
    "statistics": (
      () if quantized.statistics is None else codebooks_lib.statistics(quantized.statistics)
    ),
    "z": z.astype(jnp.float32),
    "codes": quantized.codes,
  }
  if exists is not None:
    aux["exists"] = exists
  return (y, side), jax.lax.stop_gradient(aux)


class Judged(NamedTuple):
  """What the discriminators make of a batch.

  Attributes:
    gradients: of their own loss with respect to their params, under "discriminators".
    losses: theirs.
    terms: the codec's losses by them.
    back: from cotangents of some terms, by name, to that of the decoded signal.
  """

  gradients: dict
  losses: dict[str, jax.Array]
  terms: dict[str, jax.Array]
  back: Callable


def _judged(state: TrainState, x, y, config: Train) -> Judged:
  """Both signals are judged once, for the discriminators' losses and for the codec's."""
  adversary = config.adversary
  assert adversary is not None
  modules = adversary.discriminators

  def judgements(params, signal):
    parts = zip(modules, params, strict=True)
    return [j for module, p in parts for j in module.apply({"params": p}, signal)]

  def logits(params, signal):
    return [j.logits.astype(jnp.float32) for j in judgements(params, signal)]

  real, back_real = jax.vjp(lambda p: judgements(p, x), state.discriminators)
  fake, back_fake = jax.vjp(judgements, state.discriminators, y)

  def discriminator_loss(real, fake):
    pairs = zip(real, fake, strict=True)
    found = [
      adversary.loss.discriminator(a.logits.astype(jnp.float32), b.logits.astype(jnp.float32))
      for a, b in pairs
    ]
    return sum(found) if adversary.summed else sum(found) / len(found)

  loss, (by_real, by_fake) = jax.value_and_grad(discriminator_loss, argnums=(0, 1))(real, fake)
  gradients = jax.tree.map(jnp.add, back_real(by_real)[0], back_fake(by_fake)[0])
  found = {"discriminator": loss}
  if adversary.r1:
    penalty, by_params = jax.value_and_grad(
      lambda p: losses.gradient_penalty(functools.partial(logits, p), x)
    )(state.discriminators)
    gradients = jax.tree.map(lambda a, b: a + adversary.r1 * b, gradients, by_params)
    found["r1"] = penalty
  terms, back_terms = jax.vjp(functools.partial(_adversarial_terms, real, config=config), fake)

  def back(cotangents):
    return back_fake(back_terms(_filled(terms, cotangents))[0])[1]

  return Judged({"discriminators": gradients}, found, terms, back)


def _adversarial_terms(real, fake, *, config: Train) -> dict[str, jax.Array]:
  """The codec's losses by judgements of the signal and of the decoded one."""
  adversary, wanted = config.adversary, output_terms(config)
  assert adversary is not None
  terms = {}
  if "adversarial" in wanted:
    each = jnp.stack([adversary.loss.generator(j.logits.astype(jnp.float32)) for j in fake])
    terms["adversarial"] = each.sum() if adversary.summed else each.mean()
  if "features" in wanted:
    total, count = losses.feature_loss(real, fake)
    terms["features"] = total if adversary.summed else total / count
  return terms


def _near_terms(y, x, config: Train):
  """`(terms, back)`: losses that compare the decoded signal with the signal; back as `Judged`'s."""
  weights = config.losses
  found = {
    "l1": lambda y: losses.l1(x, y),
    "l2": lambda y: losses.l2(x, y),
    "wave": lambda y: losses.relative_error(x, y),
    "mel": lambda y: losses.mel_loss(x, y, config.codec.sample_rate, weights.mel_scales),
    "stft": lambda y: losses.stft_loss(x, y),
  }
  if weights.perceptual_loss is not None:
    found["perceptual"] = functools.partial(weights.perceptual_loss, x)
  wanted = output_terms(config)
  terms, back = jax.vjp(lambda y: {n: loss(y) for n, loss in found.items() if n in wanted}, y)
  return terms, lambda cotangents: back(_filled(terms, cotangents))[0]


def _filled(terms, cotangents):
  return {name: cotangents.get(name, jnp.zeros(())) for name in terms}


def _both(back_near, back_judged):
  """The sum of two ways back, of each only where one of its terms is asked for."""

  def back(cotangents):
    judged = {n: c for n, c in cotangents.items() if n in ("adversarial", "features")}
    near = {n: c for n, c in cotangents.items() if n not in judged}
    return sum(way(part) for way, part in ((back_near, near), (back_judged, judged)) if part)

  return back


def _adaptive(back, backward, weights):
  """VQGAN's weight: both gradients by the decoder's last kernel; XLA drops what leads further."""

  def at_last_kernel(weights):
    gradient = back({name: jnp.asarray(w, jnp.float32) for name, w in weights.items()})
    (gradients,) = backward((gradient, jnp.zeros(())))
    flat = flatten_dict(gradients["decoder"], sep="/")
    return next(value for path, value in flat.items() if path.endswith("conv_out/kernel"))

  others = {name: weight for name, weight in weights.items() if name != "adversarial"}
  return losses.adaptive_weight(at_last_kernel(others), at_last_kernel({"adversarial": 1.0}))
