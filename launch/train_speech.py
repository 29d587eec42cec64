"""Trains the bundled speech codec: 16 kHz, causal, 50 latents a second, 1 to 6 kbit/s.

Command: python -m launch.train_speech --data SPEECH_DIR --out DIR --minutes 38

SPEECH_DIR holds `speech_train.tar`, a tar of clips at 16 kHz. One process, one device, no
discriminator: a multi-scale log-mel distance and the log of the wave's relative error. The run
ends after `--minutes` of wall time, its learning rate falling with the time used, and leaves the
codec in DIR/speech-16khz.
"""

import argparse
import dataclasses
import functools
import io
import pathlib
import tarfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import soundfile
from rich.progress import track
from safetensors.numpy import load_file, save_file

import jaxcodec
from configs.speech_16khz import Config, get_config
from jaxcodec import functional as F
from jaxcodec.audio.encodec import Encodec
from jaxcodec.bottlenecks import ResidualVQ
from jaxcodec.decoders.seanet import SEANetDecoder
from jaxcodec.encoders.seanet import SEANetEncoder
from jaxcodec.functional import spectral

NAME = "speech-16khz"


def read_clips(path: pathlib.Path) -> np.ndarray:
  """All clips of a tar, one after another, as one wave of int16 (half of float's memory)."""
  clips = []
  with tarfile.open(path) as tar:
    for member in track(tar.getmembers(), "reading speech"):
      file = tar.extractfile(member)
      if file is None:
        continue
      clip, rate = soundfile.read(io.BytesIO(file.read()), dtype="int16")
      if rate != 16_000:
        raise SystemExit(f"{member.name} has {rate} Hz, 16000 needed")
      clips.append(clip)
  return np.concatenate(clips)


def sample_batch(rng: np.random.Generator, speech: np.ndarray, config: Config) -> np.ndarray:
  """Random crops at random loudness: float32 [B, T, 1] within [-1, 1]."""
  length = int(config.segment_seconds * 16_000)
  starts = rng.integers(0, speech.size - length, config.batch_size)
  x = speech[starts[:, None] + np.arange(length)].astype(np.float32) / 32768
  gain = 10 ** (rng.uniform(-10, 6, (config.batch_size, 1)) / 20)
  peak = np.abs(x).max(axis=1, keepdims=True)
  return (x * np.minimum(gain, 1 / np.maximum(peak, 1e-3)))[..., None]


def spectral_loss(x, y):
  """Mean over scales of the absolute differences of log-mel and of mel spectra; x, y [B, T]."""
  total = jnp.zeros(())
  for window, bands in ((128, 16), (256, 32), (512, 64), (1024, 80), (2048, 80)):
    filters = spectral.mel_filterbank(16_000, window, bands)
    mel_x, mel_y = (spectral.stft_magnitude(w, window, window // 4) @ filters for w in (x, y))
    difference = jnp.log(mel_x + 1e-4) - jnp.log(mel_y + 1e-4)
    total += jnp.abs(difference).mean() + jnp.abs(mel_x - mel_y).mean()
  return total / 5


def loss_fn(params, x, num_active, quantize, config: Config):
  encoder, decoder = SEANetEncoder(config.net), SEANetDecoder(config.net)
  z, _ = encoder.apply({"params": params["encoder"]}, x)
  quantized = bottleneck(config).apply({"params": params["quantizer"]}, z, num_active=num_active)
  y, _ = decoder.apply({"params": params["decoder"]}, jnp.where(quantize, quantized.z, z))
  # The error of the wave relative to its energy, in nepers; without it phases are learnt late.
  energy = jnp.mean(x**2, axis=(1, 2)) + 1e-5
  wave = jnp.log(jnp.mean((x - y) ** 2, axis=(1, 2)) / energy + 0.01).mean()
  spectrum = spectral_loss(x[..., 0], y[..., 0])
  loss = spectrum + config.wave_weight * wave
  loss += config.commitment_weight * jnp.where(quantize, quantized.loss, 0.0)
  metrics = {"spectrum": spectrum, "wave": wave, "commitment": quantized.loss}
  return loss, (metrics | quantized.metrics, quantized.statistics)


def bottleneck(config: Config) -> ResidualVQ:
  return ResidualVQ(config.num_codebooks, config.codebook_size, config.net.dimension)


def init_state(key, x, config: Config):
  keys = jax.random.split(key, 3)
  z, encoder = SEANetEncoder(config.net).init_with_output(keys[0], x)
  z = z[0]
  decoder = SEANetDecoder(config.net).init(keys[1], z)
  quantizer = bottleneck(config).init(keys[2], z)
  params = {
    "encoder": encoder["params"],
    "decoder": decoder["params"],
    "quantizer": quantizer["params"],
  }
  # Speech has a root mean square near 0.05; inside, the networks should see numbers near 1.
  params["encoder"]["conv_in"]["kernel"] *= 10
  params["decoder"]["conv_out"]["kernel"] *= 0.1
  networks = {name: params[name] for name in ("encoder", "decoder")}
  zeros = jnp.zeros((config.num_codebooks, config.codebook_size))
  return {
    "params": params,
    "average": jax.tree.map(jnp.copy, networks),
    "optimizer": optimizer(config).init(networks),
    "ema": F.EmaState(zeros, jnp.zeros_like(params["quantizer"]["codebooks"])),
  }


def optimizer(config: Config) -> optax.GradientTransformation:
  """Muon for the kernels, Adam for the biases; the caller scales by the learning rate.

  A kernel [width, in, out] is a matrix from (width, in) to out. Muon reaches in 300 steps what
  takes Adam several times as many here.
  """

  def dimensions(params):
    as_matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1), output_axis=2)
    return jax.tree.map(lambda p: as_matrix if p.ndim == 3 and p.shape[2] > 1 else None, params)

  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.contrib.muon(
      1.0,
      adam_learning_rate=config.adam_share,
      muon_weight_dimension_numbers=dimensions,
      consistent_rms=0.2,
    ),
  )


@functools.partial(jax.jit, static_argnames="config", donate_argnums=0)
def train_step(state, x, key, learning_rate, quantize, *, config: Config):
  """(state, batch, key) -> (state, metrics); `quantize` false trains the networks alone."""
  params = state["params"]
  stages = jnp.asarray(config.active_choices)
  num_active = jax.random.choice(key, stages, (x.shape[0],))
  gradient = jax.grad(loss_fn, has_aux=True)
  gradients, (metrics, statistics) = gradient(params, x, num_active, quantize, config)
  networks = {name: params[name] for name in ("encoder", "decoder")}
  gradients = {name: gradients[name] for name in networks}
  updates, opt = optimizer(config).update(gradients, state["optimizer"], networks)
  networks = jax.tree.map(lambda p, u: p + learning_rate * u, networks, updates)
  codebooks, ema = F.ema_update(state["ema"], statistics, config.codebook_decay)
  old = params["quantizer"]["codebooks"]
  new = {
    "params": networks | {"quantizer": {"codebooks": jnp.where(quantize, codebooks, old)}},
    "average": jax.tree.map(lambda a, p: a + 0.002 * (p - a), state["average"], networks),
    "optimizer": opt,
    "ema": jax.tree.map(lambda a, b: jnp.where(quantize, a, b), ema, state["ema"]),
  }
  return new, metrics | {"gradient": optax.global_norm(gradients)}


@functools.partial(jax.jit, static_argnames="config")
def stage_inputs(params, x, *, config: Config):
  """What each stage is given: [Q, N, D]."""
  z, _ = SEANetEncoder(config.net).apply({"params": params["encoder"]}, x)
  z = z.reshape(-1, z.shape[-1])
  codebooks = params["quantizer"]["codebooks"]
  return F.residual_inputs(z, F.residual_encode(z, codebooks), codebooks)


@functools.partial(jax.jit, static_argnames="config")
def restart(state, x, key, *, config: Config):
  inputs = stage_inputs(state["params"], x, config=config)
  threshold = config.dead_share * state["ema"].counts.mean(axis=-1, keepdims=True)
  codebooks = state["params"]["quantizer"]["codebooks"]
  codebooks, ema = F.restart_dead_codes(key, codebooks, state["ema"], inputs, threshold)
  params = state["params"] | {"quantizer": {"codebooks": codebooks}}
  return state | {"params": params, "ema": ema}


def init_codebooks(state, x, config: Config):
  """k-means, stage by stage, on the latents of `x`; the running counts and sums follow."""
  z, _ = SEANetEncoder(config.net).apply({"params": state["params"]["encoder"]}, x)
  residual = np.asarray(z.reshape(-1, z.shape[-1]))
  rng = np.random.default_rng(0)
  books, counts = [], []
  for _ in track(range(config.num_codebooks), "k-means"):
    book = residual[rng.choice(len(residual), config.codebook_size, replace=False)]
    for _ in range(10):
      codes = np.asarray(F.residual_encode(jnp.asarray(residual), jnp.asarray(book)[None])[:, 0])
      count = np.bincount(codes, minlength=len(book))
      sums = np.zeros_like(book)
      np.add.at(sums, codes, residual)
      book = np.where(count[:, None] > 0, sums / np.maximum(count, 1)[:, None], book)
    residual = residual - book[codes]
    books.append(book)
    counts.append(count)
  codebooks = jnp.asarray(np.stack(books), jnp.float32)
  scale = config.batch_size * config.segment_seconds * 50 / len(residual)
  running = jnp.asarray(np.stack(counts), jnp.float32) * scale + 1e-3
  ema = F.EmaState(running, codebooks * running[..., None])
  params = state["params"] | {"quantizer": {"codebooks": codebooks}}
  return state | {"params": params, "ema": ema}


def run(config: Config, data: pathlib.Path, out: pathlib.Path, minutes: float, resume: bool):
  out.mkdir(parents=True, exist_ok=True)
  speech = read_clips(data / "speech_train.tar")
  rng = np.random.default_rng(config.seed)
  key = jax.random.key(config.seed)
  state = init_state(key, jnp.asarray(sample_batch(rng, speech, config)), config)
  step, used = 0, 0.0
  if resume:
    saved = load_file(out / "state.safetensors")
    step, used = int(saved.pop("step")), float(saved.pop("minutes"))
    rng = np.random.default_rng((config.seed, step))
    leaves = [jnp.asarray(saved[str(i)]) for i in range(len(saved))]
    state = jax.tree.unflatten(jax.tree.structure(state), leaves)
  start = time.monotonic() - 60 * used
  while (used := (time.monotonic() - start) / 60) < minutes:
    if step == config.warmup_steps:
      many = np.concatenate([sample_batch(rng, speech, config) for _ in range(24)])
      state = init_codebooks(state, jnp.asarray(many), config)
    x = jnp.asarray(sample_batch(rng, speech, config))
    progress = used / minutes
    rate = config.peak_lr * min(1, (step + 1) / 100) * (0.5 + 0.5 * np.cos(np.pi * progress))
    quantize = step >= config.warmup_steps
    step_key = jax.random.fold_in(key, step)
    state, metrics = train_step(state, x, step_key, rate, quantize, config=config)
    if quantize and step % 50 == 0 and progress < 0.8:
      state = restart(state, x, jax.random.fold_in(step_key, 1), config=config)
    if step % 50 == 0:
      shown = " ".join(
        f"{name} {float(value):.4f}" for name, value in metrics.items() if "/" not in name
      )
      print(f"step {step} minute {used:.1f} {shown}", flush=True)
    step += 1
    if step % 500 == 0:
      save(state, out, step, used)
  save(state, out, step, used)
  jaxcodec.save(export(state, speech, config), out / NAME, dtype=np.float16)


def export(state, speech: np.ndarray, config: Config) -> jaxcodec.Codec:
  """The codec of the averaged weights, with how often it uses each code on the training speech."""
  params = state["average"] | {"quantizer": state["params"]["quantizer"]}
  # Rounded here as they will be stored, so that the counts are those of the codec that is loaded.
  params = jax.tree.map(lambda p: p.astype(jnp.float16).astype(jnp.float32), params)
  module = Encodec(
    net=config.net,
    sample_rate=16_000,
    num_codebooks=config.num_codebooks,
    codebook_size=config.codebook_size,
    bitrates=config.bitrates,
  )
  prior = jnp.zeros((config.num_codebooks, config.codebook_size), jnp.int32)
  codec = jaxcodec.Codec(module=module, params=params, prior=prior, name=NAME)
  encode = jax.jit(jaxcodec.encode)
  counts = np.zeros(prior.shape)
  length = 60 * 16_000
  for start in track(range(0, speech.size - length, length), "counting codes"):
    x = speech[start : start + length].astype(np.float32) / 32768
    codes = np.asarray(encode(codec, x[None, :, None]))[0]
    counts += [np.bincount(c, minlength=config.codebook_size) for c in codes.T]
  prior = np.round(counts * config.prior_weight / counts.mean(axis=1, keepdims=True))
  return dataclasses.replace(codec, prior=jnp.asarray(prior, jnp.int32))


def save(state, out: pathlib.Path, step: int, minutes: float) -> None:
  """All that `--resume` needs, but for the order of the batches."""
  leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
  leaves |= {"step": np.asarray(step), "minutes": np.asarray(minutes)}
  save_file(leaves, out / "state.safetensors")


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--minutes", type=float, default=38.0)
  parser.add_argument("--resume", action="store_true", help="continue the run in --out")
  arguments = parser.parse_args()
  run(get_config(), arguments.data, arguments.out, arguments.minutes, arguments.resume)
