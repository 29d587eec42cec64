"""Attacks on all that reads .jxc files, for tests, for long runs, and for a coverage-guided fuzzer.

python tests/hostile.py --count 1000000 --seed 1    # Reports what it did, in ten minutes.
pip install atheris && python tests/hostile.py --atheris -max_total_time=600
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import pathlib
import re
import resource
import sys
import tempfile
import time
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden"
SECONDS, MEGABYTES = 1.0, 200


def seeds() -> list[bytes]:
  """Whole files to start from: of each coder, of several streams, of the bundled codec."""
  return [path.read_bytes() for path in sorted(GOLDEN.glob("*.jxc"))]


def mutate(file: bytes, rng: np.random.Generator, kinds: int = 7) -> bytes:
  """A file that differs from `file`, in one of the first `kinds` ways that files go wrong."""
  bad, at = bytearray(file), int(rng.integers(len(file)))
  match rng.integers(kinds):
    case 0:  # A burst of flipped bits.
      for _ in range(rng.integers(1, 6)):
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
    case 1:
      del bad[at:]
    case 2:
      bad[at:at] = rng.bytes(rng.integers(1, 20))
    case 3:
      del bad[at : at + rng.integers(1, 20)]
    case 4:  # Random bytes, with a valid start or without.
      keep = int(rng.integers(0, 60))
      bad = bytearray(file[:keep] + rng.bytes(rng.integers(1, 200)))
    case 5:  # A part moved somewhere else.
      part = bad[at : at + 30]
      del bad[at : at + 30]
      to = int(rng.integers(len(bad) + 1))
      bad[to:to] = part
    case 6:  # A number made large.
      bad[at : at + 1] = b"\xff" * int(rng.integers(1, 9)) + b"\x7f"
  return bytes(bad)


def signed(data: bytes) -> bytes:
  """The same file with every checksum made to hold that can be found, as a forger would.

  The header's length is made to fit first, so that its insides may change; then index and records.
  """
  from jaxcodec.entropy.fields import read_varint
  from jaxcodec.entropy.header import read_header
  from jaxcodec.errors import CodecError

  bad = bytearray(data)
  try:
    length, start = read_varint(memoryview(bad), 5, "")
  except CodecError:
    return data
  end = start + length
  if end + 4 > len(bad):
    return data
  seed = zlib.crc32(bad[:end])
  bad[end : end + 4] = seed.to_bytes(4, "little")
  try:
    streams = read_header(bytes(bad)).streams
  except CodecError:
    return bytes(bad)
  counts = [stream.num_chunks for stream in streams]
  at = end + 4
  width = bad[at] if at < len(bad) else 0
  index = at + 1 + width * sum(counts)
  if sum(counts) > len(bad) or index + 4 > len(bad):
    return bytes(bad)
  lengths = [
    int.from_bytes(bad[at + 1 + i * width : at + 1 + (i + 1) * width], "little")
    for i in range(sum(counts))
  ]
  bad[index : index + 4] = zlib.crc32(bad[at:index], seed).to_bytes(4, "little")
  at, chunk = index + 4, iter(lengths)
  for number, count in enumerate(counts):
    for place in range(count):
      end = at + 1 + next(chunk)
      place_seed = zlib.crc32(number.to_bytes(4, "little") + place.to_bytes(8, "little"), seed)
      if end + 4 <= len(bad):
        bad[end : end + 4] = zlib.crc32(bad[at:end], place_seed).to_bytes(4, "little")
      at = end + 4
  return bytes(bad)


def read_all(data: bytes) -> None:
  """Reads every chunk of every stream; what comes out must be legal by the file's own header."""
  from jaxcodec import describe
  from jaxcodec.entropy import container
  from jaxcodec.entropy.fields import is_printable
  from jaxcodec.errors import CodecError

  for line in describe.lines(describe.info(data, check=True)):
    assert is_printable(line.removeprefix("\n")), line
  for number, stream in enumerate(container.read_header(data).streams):
    # Stands for the prior that a forger cannot choose; if it is another one, that is found.
    prior = None
    if stream.prior_crc is not None:
      sizes = np.asarray(stream.codebook_sizes)
      prior = (np.arange(sizes.max()) < sizes[:, None]).astype(np.int64)
    try:
      for index, (codes, scales) in enumerate(container.read_chunks(data, prior, stream=number)):
        assert codes.shape == container.chunk_shape(stream, index)
        assert codes.min() >= 0
        assert (codes.max(axis=(0, 1)) < stream.codebook_sizes).all()
        assert scales is None or (np.isfinite(scales).all() and (scales >= 0).all())
    except CodecError:
      if prior is None:
        raise


def timely(read, *arguments, done=lambda result: False):
  """What `read` gives, within the limit of CPU time unless it is `done`.

  What takes too long is read once more, as a machine may stall, and collecting garbage in a large
  process takes its time; a file that is slow is slow twice.
  """
  took = []
  for _ in range(2):
    start = time.process_time()
    result = read(*arguments)
    took.append(time.process_time() - start)
    if done(result) or took[-1] < SECONDS:
      return result
  raise AssertionError(f"took {took} s")


def attack(data: bytes) -> str:
  """Reads `data` in each way that needs no weights, and returns what was said: "" if it is legal.

  Asserts that it is refused with one line, or what comes out is legal, and soon.
  """
  said = timely(_refusal, data)
  assert "\n" not in said
  assert all(ord(letter) >= 32 for letter in said), said
  return said


def _refusal(data: bytes) -> str:
  from jaxcodec.entropy import container
  from jaxcodec.errors import CodecError

  try:
    read_all(data)
  except CodecError as error:
    return str(error)
  with contextlib.suppress(CodecError):
    container.join([data, data])
  return ""


def drained(codec, chunks, frames: int, num_samples: int):
  """Stands for `chunked.decode_blocks`: reads all chunks and decodes to silence, without a network,
  so that forged files of ever new shapes compile nothing."""
  del frames
  batch = 1
  for codes, _ in chunks:
    batch = codes.shape[0]
  yield np.zeros((batch, num_samples, codec.channels), np.float32)


def attack_decoder(data: bytes, codec) -> None:
  """`decompress` refuses a file with one line, or gives what its header says."""
  from jaxcodec import bitstream
  from jaxcodec.errors import CodecError

  def decoded():
    try:
      return "", bitstream.decompress(data, codec, stream=None, max_memory=MEGABYTES * 10**6)
    except CodecError as error:
      return str(error), None

  said, y = timely(decoded)
  assert "\n" not in said
  assert y is None or np.isfinite(y).all()


def attack_command(data: bytes, folder: pathlib.Path) -> tuple[int, str]:
  """`info` and `decode` of a file of these bytes: the latter's status and line."""
  from jaxcodec import cli

  def called(*arguments):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
      status = cli.main([str(argument) for argument in arguments])
    return status, said.getvalue()

  source, out = folder / "bad.jxc", folder / "out.wav"
  source.write_bytes(data)
  for arguments in (["info", "--check", source], ["decode", "--max-memory", "200M", source, out]):
    status, said = timely(called, *arguments, done=lambda result: result[0] == 0)
    if status:
      assert status in (1, 2)
      assert said.count("\n") == 1, said
      assert said.startswith("jaxcodec: ")
      assert "unexpected" not in said, said
  if status:
    assert sorted(path.name for path in folder.iterdir()) == ["bad.jxc"]
  return status, said


def run(count: int, seed: int, folder: pathlib.Path, commands: bool = True) -> dict[str, int]:
  """`count` attacks: mutations, forgeries and random bytes, on the library and on the command.

  Returns how often each kind of answer came, and the megabytes that the process grew by.
  """
  import jaxcodec
  from jaxcodec import chunked, codec as codec_lib

  rng, files = np.random.default_rng(seed), seeds()
  originals = set(files)
  for file in files:
    read_all(file)
  if commands:
    with contextlib.suppress(AssertionError):  # What it imports and loads takes its time but once.
      attack_command(files[-1][:-1], folder)
  codec = dataclasses.replace(jaxcodec.load("speech-16khz"), learned=None)
  network, fingerprint = chunked.decode_blocks, codec_lib.fingerprint
  known = fingerprint(codec)
  found: collections.Counter = collections.Counter()
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  # No network, nor that of the learned prior, which would compile for each new shape; and the same
  # weights are not hashed a million times.
  chunked.decode_blocks, codec_lib.fingerprint = drained, lambda codec: known
  try:
    for number in range(count):
      forged = number % 2 == 1
      # A forger who keeps the lengths comes further: half of them only flip bits.
      kinds = 1 if number % 4 == 1 else 7
      bad = mutate(files[rng.integers(len(files))], rng, kinds)
      for _ in range(rng.integers(3)):
        bad = mutate(bad, rng, kinds) if bad else bad
      if number % 20 == 4:
        bad = rng.bytes(rng.integers(0, 300))
      bad = signed(bad) if forged else bad
      said = attack(bad)
      attack_decoder(bad, codec)
      if not forged and bad not in originals:
        assert said, "a damaged file was accepted"
        if commands:
          assert attack_command(bad, folder)[0], "a damaged file was decoded"
      found[" ".join(re.sub(r"\d+", "N", said).split()[:3]) or "legal"] += 1
  finally:
    chunked.decode_blocks, codec_lib.fingerprint = network, fingerprint
  grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
  assert grown < MEGABYTES, f"{grown} MB"
  return dict(found.most_common()) | {"MB": grown}


def picture_seeds() -> list[bytes]:
  """Picture files of several shapes, qualities and fields, of `recorded_pictures.many_rates`."""
  from recorded_pictures import many_rates

  from jaxcodec import picture_file

  rng, codec = np.random.default_rng(0), many_rates()
  cases = (
    ((1, 1), {}),
    ((65, 127), {"quality": 90, "metadata": {"title": "Bild"}}),
    ((70, 40), {"channels": 1, "profile": b"not a profile"}),
    ((3, 300), {"quality": 0}),
    ((130, 70), {"tile": 64}),
  )
  return [
    picture_file.compress(codec, rng.uniform(-1, 1, (1, *size, 3)).astype(np.float32), **fields)
    for size, fields in cases
  ]


def blank(codec, y_hat, quality):
  """Stands for `latent_codec._synthesise`: no network, so ever new shapes compile nothing."""
  del codec, quality
  return np.zeros((1, 16 * y_hat.shape[1], 16 * y_hat.shape[2], 3), np.float32)


def run_pictures(count: int, seed: int) -> dict[str, int]:
  """`count` attacks on what reads pictures, as `run`: mutated files, half of them signed anew."""
  from recorded_pictures import many_rates

  from jaxcodec import describe, picture_file
  from jaxcodec.entropy.fields import is_printable
  from jaxcodec.errors import CodecError
  from jaxcodec.image import latent_codec

  rng, files, codec = np.random.default_rng(seed), picture_seeds(), many_rates()

  def read(data: bytes) -> str:
    try:
      for line in describe.lines(describe.info(data, check=True)):
        assert is_printable(line.removeprefix("\n")), line
      _, described = picture_file.picture_of(data, None)
      y = picture_file.decompress(data, codec, max_memory=MEGABYTES * 10**6)
    except CodecError as error:
      return str(error)
    assert y.shape == (1, described.height, described.width, 3)
    return ""

  found: collections.Counter = collections.Counter()
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  network, latent_codec._synthesise = latent_codec._synthesise, blank
  try:
    for file in files:
      assert read(file) == ""
    for number in range(count):
      forged = number % 2 == 1
      bad = mutate(files[rng.integers(len(files))], rng, 1 if number % 4 == 1 else 7)
      bad = signed(bad) if forged else bad
      said = timely(read, bad)
      assert "\n" not in said
      assert said or forged or bad in files, "a damaged file was accepted"
      found[" ".join(re.sub(r"\d+", "N", said).split()[:3]) or "legal"] += 1
  finally:
    latent_codec._synthesise = network
  grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
  assert grown < MEGABYTES, f"{grown} MB"
  return dict(found.most_common()) | {"MB": grown}


def fuzz(arguments: list[str]) -> None:
  """Never returns: libFuzzer looks for new ways through the code, signed and not."""
  import atheris

  with atheris.instrument_imports(include=["jaxcodec"]):
    from jaxcodec import describe  # noqa: F401
    from jaxcodec.entropy import container  # noqa: F401

  def one(data: bytes) -> None:
    attack(data)
    attack(signed(data))

  with tempfile.TemporaryDirectory() as folder:
    for number, file in enumerate(seeds()):
      (pathlib.Path(folder) / str(number)).write_bytes(file)
    atheris.Setup([sys.argv[0], *arguments, "-rss_limit_mb=1000", "-timeout=5", folder], one)
    atheris.Fuzz()


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--count", type=int, default=20_000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--no-commands", action="store_true", help="the library alone")
  parser.add_argument("--pictures", action="store_true", help="files of pictures")
  parser.add_argument("--atheris", action="store_true", help="with arguments of libFuzzer")
  options, rest = parser.parse_known_args()
  if options.atheris:
    fuzz(rest)
  start = time.monotonic()
  if options.pictures:
    found = run_pictures(options.count, options.seed)
    print(f"{options.count} files in {time.monotonic() - start:.0f} s: {found}")
    return
  with tempfile.TemporaryDirectory() as folder:
    found = run(options.count, options.seed, pathlib.Path(folder), not options.no_commands)
  print(f"{options.count} files in {time.monotonic() - start:.0f} s: {found}")


if __name__ == "__main__":
  main()
