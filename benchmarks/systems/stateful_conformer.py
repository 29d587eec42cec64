"""Streams of a Stateful Conformer against the whole signal and against buffered inference.

Command: python -m benchmarks.systems.stateful_conformer --data SPEECH_DIR

SPEECH_DIR holds `speech_test.tar`. Buffered inference runs the whole network, with nothing kept, on
each chunk and the context before it, and keeps the chunk's answers. Work is that of products and
convolutions as traced, per second of sound, for the published network: 17 layers of 512. Answers
and times are those of a smaller one with drawn weights: no time or difference depends on what was
learnt. A chunk's time is a median over a clip.
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
import soundfile

from jaxcodec import terminal
from jaxcodec.audio.stateful_conformer import ConformerConfig, StatefulConformer
from jaxcodec.functional.log_mel import log_mel
from jaxcodec.layers.conformer import LEAD, REDUCTION
from jaxcodec.training import operations

FRAME_SECONDS = 0.08
CONTEXTS = ((70, 13), (70, 6), (70, 1), (70, 0))


def network(width: int, layers: int) -> StatefulConformer:
  config = ConformerConfig(
    labels=1024, width=width, num_heads=8, hidden=4 * width, channels=width // 2, num_layers=layers
  )
  return StatefulConformer(config)


def step_of(model: StatefulConformer):
  def step(params, mel, length, stream):
    bound = model.bind({"params": params})
    y, there, stream = bound.step(mel, length, stream)
    return bound.ctc_logits(y), there, stream

  return step


def buffered_of(model: StatefulConformer, left: int, right: int):
  """CTC's logits of the last right + 1 frames of `left + right + 1`."""

  def buffered(params, mel):
    bound = model.bind({"params": params})
    length = jnp.full(len(mel), mel.shape[1])
    y, _ = bound.encode(mel, length, left, right)
    return bound.ctc_logits(y)[:, -(right + 1) :]

  return buffered


def shapes_of(model: StatefulConformer):
  mel = jax.ShapeDtypeStruct((1, 9, model.config.bands), jnp.float32)
  one, labels = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((1,), (1, 1)))
  return jax.eval_shape(model.init, jax.random.key(0), mel, one, labels, 0, 0)["params"]


def drawn(model: StatefulConformer):
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    spread = rng.normal(size=leaf.shape).astype(np.float32)
    if path[-1].key == "scale":
      return 1 + 0.1 * spread
    # The first axis of scanned layers is none of an array's inputs.
    inputs = np.prod(leaf.shape[1:-1]) if "layers" in str(path) else np.prod(leaf.shape[:-1])
    return spread * max(inputs, 1) ** -0.5 if leaf.ndim > 1 else 0.1 * spread

  # On the device: NumPy's would be copied there with every chunk, 460 MB of the published network.
  return jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes_of(model)))


def work(model: StatefulConformer, left: int, right: int) -> tuple[float, float]:
  """GFLOP per second of sound, streamed and buffered."""
  params, steps = shapes_of(model), right + 1
  shape = lambda *size: jax.ShapeDtypeStruct(size, jnp.float32)  # noqa: E731
  length = jax.ShapeDtypeStruct((1,), jnp.int32)
  start = functools.partial(model.apply, {"params": params}, 1, left, method="init_stream")
  stream = jax.eval_shape(start)
  chunk = shape(1, REDUCTION * steps, model.config.bands)
  whole = shape(1, REDUCTION * (left + steps) - LEAD, model.config.bands)
  streamed = jax.make_jaxpr(step_of(model))(params, chunk, length, stream)
  buffered = jax.make_jaxpr(buffered_of(model, left, right))(params, whole)
  seconds = FRAME_SECONDS * steps * 1e9
  return tuple(operations.flops(found.jaxpr) / seconds for found in (streamed, buffered))


def clip(data: pathlib.Path, seconds: float) -> np.ndarray:
  """The first clip of the test split that is long enough, [1, N]."""
  with tarfile.open(data / "speech_test.tar") as tar:
    for member in tar:
      file = tar.extractfile(member)
      if file is not None and member.name.endswith(".flac"):
        x, rate = soundfile.read(io.BytesIO(file.read()), dtype="float32")
        if len(x) >= seconds * rate:
          return x[None, : round(seconds * rate)]
  raise SystemExit("no clip is long enough")


def measured(model: StatefulConformer, params, mel: np.ndarray, left: int, right: int):
  """`(largest difference of streamed logits, buffered ones', ms a chunk of each)`."""
  size = REDUCTION * (right + 1)
  count = (LEAD + mel.shape[1]) // size
  padded = np.pad(mel, ((0, 0), (LEAD, 0), (0, 0)))[:, : count * size]
  step, buffered = jax.jit(step_of(model)), jax.jit(buffered_of(model, left, right))
  stream = model.apply({"params": params}, 1, left, method="init_stream")
  parts, times = [], []
  for i in range(count):
    start = time.perf_counter()
    chunk = padded[:, i * size : (i + 1) * size]
    logits, _, stream = step(params, chunk, np.array([(i + 1) * size - LEAD]), stream)
    parts.append(np.asarray(logits))
    times.append(time.perf_counter() - start)
  others, slower = {}, []
  for i in range(count):
    last = (i + 1) * size - LEAD
    first = last - (REDUCTION * (left + right + 1) - LEAD)
    if first < 0 or len(others) >= 12:
      continue
    start = time.perf_counter()
    others[i] = np.asarray(buffered(params, mel[:, first:last]))
    slower.append(time.perf_counter() - start)
  whole = jax.jit(
    lambda params, mel: model.apply(
      {"params": params},
      model.apply({"params": params}, mel, jnp.array([mel.shape[1]]), left, right, method="encode")[
        0
      ],
      method="ctc_logits",
    )
  )(params, padded[:, LEAD:])
  whole = np.asarray(whole)
  frames = count * (right + 1)
  difference = np.abs(np.concatenate(parts, axis=1) - whole[:, :frames]).max()
  apart = [
    np.abs(found - whole[:, i * (right + 1) : (i + 1) * (right + 1)]).max()
    for i, found in others.items()
  ]
  return difference, np.max(apart), *(1e3 * np.median(t[1:]) for t in (times, slower))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--width", type=int, default=144, help="of the network that runs")
  parser.add_argument("--layers", type=int, default=4)
  options = parser.parse_args()
  published, model = network(512, 17), network(options.width, options.layers)
  params = drawn(model)
  x = clip(options.data, 12.0)
  mel = np.asarray(jax.jit(lambda x: log_mel(x, model.config.bands)[0])(x))
  print("| left, right | late, ms | GFLOP/s streamed | buffered | streamed - whole |", end="")
  print(" buffered - whole | ms a chunk, streamed | buffered |")
  print("|---|---:|---:|---:|---:|---:|---:|---:|")
  for left, right in CONTEXTS:
    streamed, buffered = work(published, left, right)
    one, other, quick, slow = measured(model, params, mel, left, right)
    late = round(1e3 * FRAME_SECONDS * (right + 1))
    print(
      f"| {left}, {right} | {late} | {streamed:.1f} | {buffered:.1f} | {one:.0e} | {other:.0e} |"
      f" {quick:.1f} | {slow:.1f} |",
      flush=True,
    )
  large = dataclasses.replace(published.config, ctc=False)
  total = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes_of(published)))
  print(f"published: {total / 1e6:.0f} million parameters, {large.num_layers} layers")


if __name__ == "__main__":
  terminal.look_for_no_absent_accelerator()
  main()
