"""Raw samples through a codec while they come in."""

import dataclasses
import io

import jax
import numpy as np
import pytest

import jaxcodec
from jaxcodec import live

pytestmark = pytest.mark.optimized


@pytest.fixture(scope="module")
def codec():
  return jaxcodec.load("speech-16khz")


class Slow(io.BytesIO):
  """Gives less than it is asked for, as pipes do."""

  def read(self, size=-1):
    return super().read(min(size, 333))


def round_trip(codec, x, bitrate):
  codes = jax.jit(jaxcodec.encode, static_argnames="bitrate")(codec, x, bitrate=bitrate)
  return np.asarray(jax.jit(jaxcodec.decode)(codec, codes))[0, : x.shape[1]]


@pytest.mark.parametrize(("sample_format", "kind"), [("s16le", "<i2"), ("f32le", "<f4")])
def test_what_comes_out_is_what_the_whole_gives(codec, sample_format, kind):
  x = np.random.default_rng(0).uniform(-0.3, 0.3, (1, 1700, 1)).astype(np.float32)
  scale = 32768 if kind == "<i2" else 1
  raw = (x[0] * scale).astype(kind)
  sink = io.BytesIO()
  timing = live.pipe(
    codec, Slow(raw.tobytes()), sink, bitrate=1000, frames=2, sample_format=sample_format
  )
  got = np.frombuffer(sink.getvalue(), kind).astype(np.float32)
  want = round_trip(codec, raw[None].astype(np.float32) / scale, 1000)[:, 0]
  assert timing.seconds == 1700 / 16_000
  assert timing.chunk_seconds == 0.04
  assert 0 < timing.median_step <= timing.slowest_step
  if kind == "<i2":
    np.testing.assert_allclose(got, np.round(want * 32767), atol=1)
  else:
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_nothing_in_is_nothing_out(codec):
  sink = io.BytesIO()
  assert live.pipe(codec, io.BytesIO(), sink).seconds == 0
  assert sink.getvalue() == b""


def test_half_a_sample_at_the_end_is_left_out(codec):
  sink = io.BytesIO()
  live.pipe(codec, io.BytesIO(bytes(2 * 320 + 7)), sink, bitrate=1000)
  assert len(sink.getvalue()) == 2 * 323


def test_codecs_that_cannot_answer_at_once_are_refused(codec):
  for change, words in (({"causal": False}, "not causal"), ({"pad_mode": "reflect"}, "reflects")):
    net = dataclasses.replace(codec.module.net, **change)
    other = dataclasses.replace(codec, module=dataclasses.replace(codec.module, net=net))
    with pytest.raises(ValueError, match=words):
      live.pipe(other, io.BytesIO(), io.BytesIO())
