"""Files under a learned prior: written, read, damaged, forged, and read by others."""

import dataclasses
import hashlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from random_params import draw_params

import jaxcodec
from jaxcodec import cli, codec as codec_lib
from jaxcodec.audio.encodec import Encodec
from jaxcodec.demo import bundled_samples
from jaxcodec.entropy import adaptive, container, learned, prior_model
from jaxcodec.entropy.prior_model import PriorConfig
from jaxcodec.functional import rans
from jaxcodec.hub import learned_prior
from jaxcodec.layers.seanet import SEANetConfig

pytestmark = pytest.mark.optimized

CONFIG = PriorConfig(
  num_codebooks=3,
  codebook_size=16,
  latent=4,
  features=8,
  layers=1,
  heads=1,
  hidden=8,
  window=8,
  depth_hidden=8,
  output=8,
)


def make_codec(seed=0) -> jaxcodec.Codec:
  net = SEANetConfig(num_filters=2, strides=(2, 5), dimension=4, num_lstm_layers=0, pad_mode="zero")
  module = Encodec(
    net=net, sample_rate=100, num_codebooks=3, codebook_size=16, bitrates=(40, 80, 120)
  )
  params = draw_params(module, np.zeros((1, 200, 1), np.float32))
  rng = np.random.default_rng(seed)
  network = jax.tree.map(lambda leaf: 0.6 * rng.normal(size=leaf.shape), prior_model.shapes(CONFIG))
  prior = learned_prior.prior_of(CONFIG, network, params["quantizer"]["codebooks"])
  counts = jnp.ones((3, 16), jnp.int32)
  return jaxcodec.Codec(module=module, params=params, prior=counts, name="tiny", learned=prior)


CODEC = make_codec()
SIGNAL = np.random.default_rng(0).normal(0, 0.3, (2, 2345, 1)).astype(np.float32)


COUNTS = np.ones((3, 16), np.int64)
STREAM = container.Stream(
  codec="tiny",
  weights_hash=codec_lib.fingerprint(CODEC),
  sample_rate=100,
  channels=1,
  batch=1,
  num_samples=3000,
  hop_length=10,
  num_frames=300,
  frames_per_chunk=100,
  codebook_sizes=(16, 16, 16),
  prior_crc=adaptive.prior_crc(COUNTS, (16, 16, 16)),
  learned_digest=learned.digest(CODEC.learned),
)
HEADER = container.Header(streams=(STREAM,))


def sampled_codes() -> list[np.ndarray]:
  """Codes of each chunk as likely as the prior says: what random words decode to."""
  words = np.random.default_rng(0).integers(0, 1 << 16, (8, 128 * 3), np.uint32)
  lanes = jnp.full(8, 384, jnp.int32), jnp.full(8, 1 << 30, jnp.uint32)
  streams = rans.Streams(jnp.asarray(words), *lanes)
  codes, _ = learned._read(CODEC.learned, streams, jnp.full(8, 100, jnp.int32), 3)
  shapes = container.chunk_shapes(STREAM)
  return [np.asarray(codes)[i : i + 1, : shape[1]] for i, shape in enumerate(shapes)]


CODES = sampled_codes()


RECORDS = [
  container.encode_chunk(HEADER, i, codes, None, COUNTS, payload)
  for i, (codes, payload) in enumerate(
    zip(CODES, learned.encode(CODEC.learned, CODES), strict=True)
  )
]
FILE = container.write(HEADER, RECORDS)


def coders(some: list[bytes]) -> list[int]:
  return [record[0] for record in some]


def read(data: bytes, prior=CODEC.learned) -> list[np.ndarray]:
  return [codes for codes, _ in container.read_chunks(data, COUNTS, prior)]


def test_chunks_are_under_the_prior_where_it_is_smaller_and_come_back():
  assert coders(RECORDS) == [3, 3, 3]
  for codes, found in zip(CODES, read(FILE), strict=True):
    np.testing.assert_array_equal(found, codes)
  noise = np.random.default_rng(0).integers(0, 16, (1, 100, 3))
  payload = learned.encode(CODEC.learned, [noise])[0]
  escaped = container.encode_chunk(HEADER, 0, noise, None, COUNTS, payload)
  assert escaped == container.encode_chunk(HEADER, 0, noise, None, COUNTS)


def test_signals_come_back_as_with_adaptive_coding():
  files = [jaxcodec.compress(CODEC, SIGNAL, bitrate=120, learned=x) for x in (False, True)]
  signals = [jaxcodec.decompress(file, CODEC) for file in files]
  np.testing.assert_array_equal(*signals)
  assert signals[0].shape == SIGNAL.shape
  empty = jaxcodec.compress(CODEC, SIGNAL[:, :0], learned=True)
  assert jaxcodec.decompress(empty, CODEC).shape == (2, 0, 1)


def test_the_weights_hash_does_not_depend_on_the_learned_prior():
  without = dataclasses.replace(CODEC, learned=None)
  assert codec_lib.fingerprint(without) == codec_lib.fingerprint(CODEC)
  with pytest.raises(ValueError, match="has no learned prior"):
    jaxcodec.compress(without, SIGNAL, learned=True)


def test_a_file_needs_the_prior_it_was_written_with():
  with pytest.raises(jaxcodec.CodecError, match="chunk 0: it needs the learned prior"):
    read(FILE, None)
  with pytest.raises(jaxcodec.CodecError, match="the learned prior is another one"):
    read(FILE, make_codec(seed=1).learned)


def test_each_damaged_byte_is_found_and_chunks_before_it_are_given():
  start = len(FILE) - sum(map(len, RECORDS))
  second = start + len(RECORDS[0])
  for at in range(second, second + len(RECORDS[1]), 5):
    damaged = bytearray(FILE)
    damaged[at] ^= 0x10
    chunks = container.read_chunks(bytes(damaged), COUNTS, CODEC.learned)
    np.testing.assert_array_equal(next(chunks)[0], CODES[0])
    with pytest.raises(jaxcodec.CodecError, match="chunk 1 is damaged"):
      next(chunks)


def forged(header: container.Header, payload: bytes, others=()) -> bytes:
  """A file whose first chunk has this payload under the learned prior, with true checksums."""
  body = b"\3" + payload
  seal = container.record_crc(body, container.header_bytes(header)[-4:], 0, 0)
  return container.write(header, [body + seal, *others])


def test_forged_chunks_are_refused():
  """Random words, too few, too many, chunks that it does not take, and a header that names none."""
  first = learned.encode(CODEC.learned, CODES[:1])[0]
  noise = np.random.default_rng(1).bytes(len(first) - 4)
  for payload, match in ((b"\1\1\1\1" + noise, "damaged"), (bytes(3), "stream")):
    with pytest.raises(jaxcodec.CodecError, match=f"chunk 0: .*{match}"):
      read(forged(HEADER, payload, RECORDS[1:]))
  with pytest.raises(jaxcodec.CodecError, match="index is not valid"):
    read(forged(HEADER, b"\1" * 200, RECORDS[1:]))
  with pytest.raises(jaxcodec.CodecError, match="packed are"):
    read(forged(HEADER, b"\1" * 150, RECORDS[1:]))
  long = dataclasses.replace(STREAM, num_frames=5000, frames_per_chunk=5000)
  with pytest.raises(jaxcodec.CodecError, match="not for chunks of this shape"):
    read(forged(container.Header(streams=(long,)), b"\1" * 20))
  silent = container.Header(streams=(dataclasses.replace(STREAM, learned_digest=None),))
  with pytest.raises(jaxcodec.CodecError, match="the header names none"):
    read(forged(silent, first, RECORDS[1:]))


def test_a_saved_codec_keeps_its_prior_and_damage_to_it_is_seen(tmp_path):
  jaxcodec.save(CODEC, tmp_path)
  loaded = jaxcodec.load(tmp_path)
  assert learned.digest(loaded.learned) == learned.digest(CODEC.learned)
  (tmp_path / "prior.json").write_text('{"version": 1, "sizes": {"num_codebooks": 3}}')
  with pytest.raises(jaxcodec.CodecError, match="does not describe a prior"):
    jaxcodec.load(tmp_path)


def test_the_command_says_when_there_is_no_learned_prior(tmp_path, capsys):
  jaxcodec.save(dataclasses.replace(CODEC, learned=None), tmp_path / "codec")
  call = ["encode", str(bundled_samples()[0]), str(tmp_path / "a.jxc"), "--prior", "learned"]
  assert cli.main([*call, "--codec", str(tmp_path / "codec")]) == 2
  assert "has no learned prior" in capsys.readouterr().err


# Prints the hash of a file's codes, read in a process of its own.
SCRIPT = """
import contextlib, hashlib, os, sys
import jax, numpy as np
import jaxcodec
from jaxcodec.entropy import container
codec = jaxcodec.load("speech-16khz")
data = open(sys.argv[1], "rb").read()
eager = jax.disable_jit() if os.environ.get("EAGER") else contextlib.nullcontext()
prior = np.asarray(codec.prior)[:2]
with eager:
  codes = [c for c, _ in container.read_chunks(data, prior, codec.learned)]
print(hashlib.sha256(b"".join(c.astype("<i4").tobytes() for c in codes)).hexdigest())
"""


@pytest.mark.slow
def test_other_threads_flags_and_batches_and_no_compiler_read_the_same_codes(tmp_path):
  codec = jaxcodec.load("speech-16khz")
  wave, rate = soundfile.read(bundled_samples()[1], dtype="float32")
  soundfile.write(tmp_path / "a.wav", wave[: rate // 2], rate)
  single = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
  write = """
from jaxcodec import cli
for prior in ("adaptive", "learned"):
  cli.main(["encode", "a.wav", f"{prior}.jxc", "--bitrate", "1", "--prior", prior])
"""
  one = os.environ | {"XLA_FLAGS": single}
  subprocess.run([sys.executable, "-c", write], cwd=tmp_path, env=one, check=True)
  # Adaptive coding has no network, so what it gives back are the writer's codes.
  counted = container.read_chunks(
    (tmp_path / "adaptive.jxc").read_bytes(), np.asarray(codec.prior)[:2]
  )
  ((codes, _),) = counted
  expected = hashlib.sha256(codes.astype("<i4").tobytes()).hexdigest()
  payload = learned.encode(codec.learned, [codes])[0]
  many = learned.decode(codec.learned, [payload] * 9, [codes.shape] * 9)  # 32 lanes instead of 8.
  assert all(np.array_equal(some, codes) for some in many)
  for flags, eager in (
    (single, ""),
    ("--xla_cpu_enable_fast_math=true --xla_cpu_enable_fast_min_max=true", ""),
    ("--xla_cpu_max_isa=SSE4_2 --xla_backend_optimization_level=0", ""),
    ("", "1"),
  ):
    environment = os.environ | {"XLA_FLAGS": flags, "EAGER": eager}
    call = [sys.executable, "-c", SCRIPT, str(tmp_path / "learned.jxc")]
    out = subprocess.run(call, env=environment, check=True, capture_output=True, text=True)
    assert out.stdout.split()[-1] == expected, flags
