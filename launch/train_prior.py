"""Trains the learned prior of the bundled speech codec, in whole numbers from the first step on.

Command: python -m launch.train_prior --data SPEECH_DIR --out DIR --minutes 50

SPEECH_DIR holds `speech_train.tar` and `speech_val.tar`, tars of clips at 16 kHz. The loss is the
bits a code; the network computes as it will in files, with the gradients of the real functions that
it rounds. The run ends after `--minutes` of wall time, its learning rate falling with the time
used, and leaves `prior.json` and `prior.safetensors` of the averaged weights in DIR: copy them into
the codec's directory.
"""

import functools
import io
import pathlib
import sys
import tarfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import soundfile
from rich.progress import track

import jaxcodec
from configs.speech_16khz_prior import Config, get_config
from jaxcodec import terminal
from jaxcodec.entropy import prior_model
from jaxcodec.hub import learned_prior
from jaxcodec.hub.load import load_sound

_TOGETHER = 8  # Clips that are coded at once.


def read_clips(path: pathlib.Path) -> list[np.ndarray]:
  with tarfile.open(path) as tar:
    files = [tar.extractfile(member) for member in tar.getmembers()]
    data = [file.read() for file in files if file is not None]
  return [soundfile.read(io.BytesIO(clip), dtype="float32")[0] for clip in data]


def changed(clip: np.ndarray, rng: np.random.Generator, speed: bool) -> np.ndarray:
  """The clip shifted by part of a frame, louder or softer, and up to 8% faster or slower."""
  clip = clip[rng.integers(1, 320) :]
  clip = clip * min(10 ** (rng.uniform(-8, 6) / 20), 1 / max(np.abs(clip).max(), 1e-3))
  if speed:
    factor = rng.uniform(0.92, 1.08)
    places = np.arange(int(len(clip) / factor)) * factor
    clip = np.interp(places, np.arange(len(clip)), clip)
  return clip.astype(np.float32)


def codes_of(codec: jaxcodec.Codec, clips: list[np.ndarray], what: str) -> list[np.ndarray]:
  """Codes [F, Q] of each clip."""
  encode = jax.jit(jaxcodec.encode)
  order = np.argsort([len(clip) for clip in clips])
  found: dict[int, np.ndarray] = {}
  for start in track(range(0, len(order), _TOGETHER), what):
    some = order[start : start + _TOGETHER]
    longest = -(-max(len(clips[i]) for i in some) // 32_000) * 32_000
    x, lengths = np.zeros((_TOGETHER, longest, 1), np.float32), np.zeros(_TOGETHER, np.int32)
    for row, i in enumerate(some):
      x[row, : len(clips[i]), 0], lengths[row] = clips[i], len(clips[i])
    codes = np.asarray(encode(codec, jnp.asarray(x), length=jnp.asarray(lengths)))
    for row, i in enumerate(some):
      found[i] = codes[row, : -(-len(clips[i]) // codec.hop_length)]
  return [found[i] for i in range(len(clips))]


def bits(params, vectors, codes, num_active, books, config: Config):
  """Bits a code of `codes` [B, F, Q], of each of `books`: [books, B F]."""
  whole = prior_model.quantize(params)
  every = jnp.arange(codes.shape[-1])
  entries = vectors[every, codes] * (every < num_active)[:, None]
  latents = jnp.cumsum(entries, axis=2)
  inputs = prior_model.frame_inputs(latents[:, :, 0], latents[:, :, 1], latents[:, :, -1])
  h = prior_model.context(whole, inputs, num_active, config.prior)

  def of_book(book):
    depth = prior_model.of_codebook(whole["depth"], book)
    before = jnp.where(book > 0, latents[:, :, book - 1], 0)
    log_p = jax.nn.log_softmax(
      prior_model.logits(depth, h, before) * np.log(2) / prior_model.LOGIT_STEPS
    )
    code = codes[:, :, book, None]
    return -jnp.take_along_axis(log_p, code, axis=-1).ravel() / np.log(2)

  return jax.lax.map(of_book, books)


def optimizer() -> optax.GradientTransformation:
  # Gradients pass through units of 1/4096: an epsilon of 1e-8 would be no longer small.
  return optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.99, eps=1e-10))


@functools.partial(jax.jit, static_argnames="config", donate_argnums=0)
def train_step(state, vectors, codes, num_active, books, rate, keep, *, config: Config):
  def loss_fn(params):
    return bits(params, vectors, codes, num_active, books, config).mean()

  loss, gradients = jax.value_and_grad(loss_fn)(state["params"])
  updates, opt = optimizer().update(gradients, state["optimizer"])
  params = jax.tree.map(lambda p, u: p - rate * u, state["params"], updates)
  average = jax.tree.map(lambda a, p: a + (1 - keep) * (p - a), state["average"], params)
  return {"params": params, "average": average, "optimizer": opt}, loss


def sample(rng: np.random.Generator, clips: list[np.ndarray], config: Config) -> np.ndarray:
  """Crops of clips, which are drawn by their lengths: [B, F, Q]."""
  lengths = np.array([len(clip) for clip in clips]) * [len(clip) >= config.frames for clip in clips]
  chosen = rng.choice(len(clips), config.batch_size, p=lengths / lengths.sum())
  starts = [rng.integers(0, len(clips[i]) - config.frames + 1) for i in chosen]
  return np.stack([clips[i][s : s + config.frames] for i, s in zip(chosen, starts, strict=True)])


def run(config: Config, data: pathlib.Path, out: pathlib.Path, minutes: float) -> None:
  codec = load_sound(config.codec)
  codebooks = codec.params["quantizer"]["codebooks"]
  vectors = prior_model.code_vectors(codebooks)
  speech = read_clips(data / "speech_train.tar")
  clips = codes_of(codec, speech, "coding speech")
  for i in range(1, config.passes):
    rng = np.random.default_rng(i)
    clips += codes_of(codec, [changed(c, rng, i > 1) for c in speech], f"coding it changed, {i}")
  held = codes_of(codec, read_clips(data / "speech_val.tar"), "coding validation speech")
  held_out = np.stack([clip[:300] for clip in held if len(clip) >= 300])
  params = prior_model.init(jax.random.key(config.seed), config.prior, codebooks, codec.prior)
  average = jax.tree.map(jnp.copy, params)
  state = {"params": params, "average": average, "optimizer": optimizer().init(params)}
  rng = np.random.default_rng(config.seed)
  score = jax.jit(functools.partial(bits, config=config))
  step, start = 0, time.monotonic()
  while (used := (time.monotonic() - start) / 60) < minutes:
    active = int(rng.choice(config.active_choices))
    books = np.resize(rng.permutation(active), config.books_per_step)
    rate = config.peak_lr * min(1, (step + 1) / 100)
    rate *= 0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * used / minutes))
    keep = min(0.995, (step + 1) / (step + 20))
    codes = sample(rng, clips, config)
    state, loss = train_step(state, vectors, codes, active, books, rate, keep, config=config)
    step += 1
    if step % 50 == 0:
      print(f"step {step} minute {used:.1f} bits a code {float(loss):.3f}", flush=True)
    if step % config.report_every == 0:
      report(score, state["average"], vectors, held_out, config)
      export(state["average"], codebooks, out, config)
  report(score, state["average"], vectors, held_out, config)
  export(state["average"], codebooks, out, config)


def report(score, params, vectors, codes, config: Config) -> None:
  """Prints the bits a code on speech that is held out, of all and of each codebook."""
  books = np.arange(config.prior.num_codebooks)
  parts = [score(params, vectors, row[None], len(books), books) for row in codes]
  each = np.mean(np.concatenate(parts, axis=1), axis=1)
  print(
    f"validation: {each.mean():.4f} bits a code;", " ".join(f"{b:.2f}" for b in each), flush=True
  )


def export(params, codebooks, out: pathlib.Path, config: Config) -> None:
  out.mkdir(parents=True, exist_ok=True)
  learned_prior.save_prior(learned_prior.prior_of(config.prior, params, codebooks), out)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command with `arguments`, `sys.argv` if None, and returns its exit status."""
  terminal.look_for_no_absent_accelerator()
  parser = terminal.Parser(prog="launch.train_prior", description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--minutes", type=float, default=50.0)
  try:
    options = parser.parse_args(arguments)
    for name in ("speech_train.tar", "speech_val.tar"):
      if not (options.data / name).is_file():
        raise terminal.UsageError(f"--data {options.data} holds no {name}")
  except terminal.UsageError as error:
    print(f"launch.train_prior: {error}", file=sys.stderr)
    return 2
  run(get_config(), options.data, options.out, options.minutes)
  return 0


if __name__ == "__main__":
  sys.exit(main())
