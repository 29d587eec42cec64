"""Files of format version 1, frozen for ever, read by us and by a reader made from the document."""

import hashlib
import json
import pathlib

import jax
import jxc_reader
import numpy as np
import pytest

import jaxcodec
from jaxcodec.entropy import adaptive, container
from jaxcodec.errors import CodecError

pytestmark = pytest.mark.optimized

GOLDEN = pathlib.Path(__file__).parent / "golden"
NAMES = ("adaptive_batch", "grown", "packed_stereo", "prior_mono", "several", "speech")
# Its network is in the page too, but not in the reader.
LEARNED = "learned"
CODERS = {
  "adaptive_batch": {1},
  "packed_stereo": {0},
  "prior_mono": {2},
  "several": {0, 1, 2},
  LEARNED: {3},
}


def golden(name):
  data = (GOLDEN / f"{name}.jxc").read_bytes()
  return data, json.loads((GOLDEN / f"{name}.json").read_text())


def test_no_golden_file_is_forgotten():
  assert sorted(path.stem for path in GOLDEN.glob("*.jxc")) == sorted((*NAMES, LEARNED))


@pytest.mark.parametrize("name", [*NAMES, LEARNED])
def test_golden_files_decode_to_what_they_always_did(name):
  data, expected = golden(name)
  assert hashlib.sha256(data).hexdigest() == expected["sha256"]
  header = container.check(data)
  assert len(header.streams) == len(expected["codes"])
  priors = [np.asarray(prior) for prior in expected["priors"]]
  for number, stream in enumerate(header.streams):
    fitting = [p for p in priors if len(p) == len(stream.codebook_sizes)]
    prior = fitting[0] if stream.prior_crc is not None else None
    learned = jaxcodec.load(stream.codec).learned if stream.learned_digest else None
    parts = list(container.read_chunks(data, prior, learned, stream=number))
    codes = [codes for codes, _ in parts]
    if codes:
      np.testing.assert_array_equal(np.concatenate(codes, axis=1), expected["codes"][number])
    else:
      assert np.size(expected["codes"][number]) == 0
    scales = [scales for _, scales in parts if scales is not None]
    found = np.concatenate(scales, axis=1) if scales else np.zeros((stream.batch, 0), np.float32)
    np.testing.assert_array_equal(found, np.asarray(expected["scales"][number], np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_the_document_is_enough_to_read_them(name):
  data, expected = golden(name)
  metadata, streams = jxc_reader.read(data, expected["priors"])
  header = container.read_header(data)
  assert metadata == header.metadata
  for number, (found, stream) in enumerate(zip(streams, header.streams, strict=True)):
    assert found["codes"] == expected["codes"][number]
    assert found["scales"] == expected["scales"][number]
    assert found["metadata"] == stream.metadata
    assert tuple(found["sizes"]) == stream.codebook_sizes
    assert (found["codec"], found["weights_hash"]) == (stream.codec, stream.weights_hash)
    for field, _, _ in jxc_reader.SOUND_NUMBERS:
      assert found[field] == getattr(stream, field)


def test_a_reader_that_lacks_the_learned_prior_says_so_by_its_field():
  data, expected = golden(LEARNED)
  with pytest.raises(jxc_reader.Refused, match="field 3"):
    jxc_reader.read(data, expected["priors"])


@pytest.mark.parametrize(("name", "coders"), CODERS.items())
def test_golden_files_hold_the_coders_that_they_stand_for(name, coders):
  data, _ = golden(name)
  starts = container.read_layout(data).starts
  assert {data[at] for places in starts for at in places[:-1]} == coders


def test_both_readers_refuse_the_same_files():
  data, expected = golden("several")
  rng, differ, refused = np.random.default_rng(0), 0, 0
  priors = [np.asarray(prior) for prior in expected["priors"]]
  for _ in range(150):
    bad = bytearray(data)
    bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
    with pytest.raises(CodecError):
      container.check(bad)
    with pytest.raises(jxc_reader.Refused):
      jxc_reader.read(bytes(bad), expected["priors"])
  # Codes of a forger, whose checksums hold: what one reader refuses, so does the other.
  stream = container.Stream(
    codec="x",
    weights_hash=bytes(16),
    sample_rate=1,
    channels=1,
    batch=1,
    num_samples=0,
    hop_length=1,
    num_frames=12,
    frames_per_chunk=12,
    codebook_sizes=(16, 100, 1, 7),
    prior_crc=adaptive.prior_crc(priors[0], (16, 100, 1, 7)),
  )
  header = container.Header(streams=(stream,))
  for _ in range(300):
    body = bytes([rng.integers(3)]) + rng.bytes(rng.choice([4, 8, 16, 20, 21]))
    crc = container.record_crc(body, container.header_bytes(header)[-4:], 0, 0)
    file = container.write(header, [body + crc])
    try:
      ours = next(container.read_chunks(file, priors[0]))[0].tolist()
    except CodecError:
      ours = None
    try:
      theirs = jxc_reader.read(file, expected["priors"])[1][0]["codes"]
    except jxc_reader.Refused:
      theirs = None
    differ += ours != theirs
    refused += ours is None
  assert differ == 0
  assert 100 < refused < 300


def test_a_file_of_the_bundled_codec_still_finds_its_weights():
  data, expected = golden("speech")
  y = jaxcodec.decompress(data)
  assert y.shape == (1, 5000, 1)
  codec = jaxcodec.load("speech-16khz")
  decode = jax.jit(jaxcodec.decode, static_argnames="length")
  whole = decode(codec, np.asarray(expected["codes"][0]), length=5000)
  np.testing.assert_allclose(y, whole, atol=1e-5)
