"""Pictures as .jxc files: any size, anywhere, damaged, forged, and through the command."""

import dataclasses
import hashlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms
from recorded_pictures import codec, fitting

import jaxcodec
from jaxcodec import cli, functional as F, picture_file
from jaxcodec.entropy import container
from jaxcodec.functional import exact
from jaxcodec.image import latent_codec
from jaxcodec.image.picture_codec import PictureCodec

pytestmark = pytest.mark.optimized

RNG = np.random.default_rng(0)


def picture(height: int, width: int) -> np.ndarray:
  """Smooth waves and a little noise, float32 [1, H, W, 3]."""
  rows, columns = np.mgrid[:height, :width]
  waves = np.sin(rows / 9)[..., None] + np.cos(columns[..., None] / [7, 11, 19])
  noise = RNG.normal(0, 0.02, (height, width, 3))
  return np.clip(0.4 * waves + noise, -1, 1).astype(np.float32)[None]


class Unknown(PictureCodec):
  """A system that no file is of."""


X = picture(65, 127)
MEAN_SCALE = codec("mean_scale")
DATA = jaxcodec.compress(MEAN_SCALE, X, metadata={"title": "Waves"})


CASES = (
  *("factorized", "scale", "mean_scale", "autoregressive"),
  *("checkerboard", "channelwise", "groups", "elic", "mlic"),
)


@pytest.mark.parametrize(
  "case",
  [
    pytest.param(case, marks=[pytest.mark.slow] * (case in ("attention", "elic", "mlic")))
    for case in (*CASES, "attention")
  ],
)
def test_a_picture_of_odd_size_comes_back_exactly_so(case):
  found = codec(case)
  data = DATA if case == "mean_scale" else jaxcodec.compress(found, X)
  y = jaxcodec.decompress(data, found)
  assert y.shape == X.shape
  assert y.dtype == np.float32
  assert np.abs(y).max() <= 1
  height = 80 if case == "factorized" else 128
  latents = latent_codec.decode_latents(found, container.read_picture(data), height, 128)
  # What the analysis gives, to half a step of rounding; a foretold residual adds up to another.
  padded = np.pad(X, ((0, 0), (0, height - 65), (0, 1), (0, 0)), mode="edge")
  own, _ = latent_codec.analysed(found, padded)
  far = np.abs(latents - np.asarray(own)[0])
  if case == "mlic":
    far = np.delete(far, [0, 8], axis=-1)  # Left out: they are their means.
  assert far.max() <= (1.0 if case in ("channelwise", "mlic") else 0.5) + 1e-3


def test_one_pixel_is_a_picture():
  y = jaxcodec.decompress(jaxcodec.compress(MEAN_SCALE, X[:, :1, :1]), MEAN_SCALE)
  assert y.shape == (1, 1, 1, 3)


def test_the_file_says_what_it_holds_without_weights():
  info = jaxcodec.info(DATA, check=True)
  (stream,) = info["streams"]
  assert (stream["height"], stream["width"], stream["colors"]) == (65, 127, "RGB")
  assert info["metadata"] == {"title": "Waves"}
  assert stream["bytes"] == len(DATA)


def test_wrong_calls_are_refused():
  for wrong in (X[0], X.repeat(2, axis=0), X[..., :2], X[:, :0]):
    with pytest.raises(ValueError, match=r"takes \[1, height, width, 3\]"):
      jaxcodec.compress(MEAN_SCALE, wrong)
  with pytest.raises(ValueError, match="floating and finite"):
    jaxcodec.compress(MEAN_SCALE, np.where(X > 0.5, np.nan, X))
  with pytest.raises(ValueError, match="there are no files of Unknown codecs"):
    jaxcodec.compress(dataclasses.replace(MEAN_SCALE, module=Unknown(filters=8, latents=12)), X)
  with pytest.raises(ValueError, match="neither bitrates nor"):
    jaxcodec.compress(MEAN_SCALE, X, bitrate=1000)
  with pytest.raises(ValueError, match="no start"):
    jaxcodec.decompress(DATA, MEAN_SCALE, start=1.0)


def test_files_that_cannot_be_decoded_say_why():
  with pytest.raises(jaxcodec.CodecError, match="other weights than codec checkerboard"):
    jaxcodec.decompress(DATA, codec("checkerboard"))
  with pytest.raises(jaxcodec.CodecError, match="MB of memory"):
    jaxcodec.decompress(DATA, MEAN_SCALE, max_memory=1000)
  with pytest.raises(
    jaxcodec.CodecError, match="needs the codec 'mean_scale', which is not bundled"
  ):
    jaxcodec.decompress(DATA)
  with pytest.raises(jaxcodec.CodecError, match="stream 0 is a picture and no sound"):
    jaxcodec.decompress(DATA, jaxcodec.load("speech-16khz"))


def test_every_kind_of_damage_is_found():
  for at in range(0, len(DATA), 7):
    damaged = bytearray(DATA)
    damaged[at] ^= 1 << at % 8
    with pytest.raises(jaxcodec.CodecError):
      jaxcodec.decompress(bytes(damaged), MEAN_SCALE)
    with pytest.raises(jaxcodec.CodecError):
      jaxcodec.decompress(DATA[:at], MEAN_SCALE)
  with pytest.raises(jaxcodec.CodecError, match="too many after the last chunk"):
    jaxcodec.decompress(DATA + b"\0", MEAN_SCALE)


def test_forged_latents_are_refused_or_decode_to_some_picture():
  header, payload = container.read_header(DATA), container.read_picture(DATA)
  refused = 0
  for seed in range(40):
    rng = np.random.default_rng(seed)
    forged = bytearray(payload)
    for at in rng.integers(len(payload), size=3):
      forged[at] = rng.integers(256)
    forged = forged[: rng.integers(1, len(forged))] if seed % 2 else forged
    record = container.picture_record(header, bytes(forged))
    try:
      y = jaxcodec.decompress(container.write(header, [record]), MEAN_SCALE)
      assert np.isfinite(y).all()
    except jaxcodec.CodecError:
      refused += 1
  assert refused >= 20
  record = container.picture_record(header, payload + b"\0")
  with pytest.raises(jaxcodec.CodecError, match="1 bytes too many after the latents"):
    jaxcodec.decompress(container.write(header, [record]), MEAN_SCALE)


def test_a_saved_codec_reads_the_file(tmp_path):
  jaxcodec.save(MEAN_SCALE, tmp_path)
  loaded = jaxcodec.load(tmp_path)
  assert loaded.fingerprint == MEAN_SCALE.fingerprint
  payload = container.read_picture(DATA)
  expected = latent_codec.decode_latents(MEAN_SCALE, payload, 128, 128)
  np.testing.assert_array_equal(latent_codec.decode_latents(loaded, payload, 128, 128), expected)
  text = (tmp_path / "config.json").read_text()
  (tmp_path / "config.json").write_text(text.replace('"filters": 8', '"filters": 9'))
  with pytest.raises(jaxcodec.CodecError, match="has shape"):
    jaxcodec.load(tmp_path)
  (tmp_path / "config.json").write_text(text.replace('"filters": 8', '"filters": "8"'))
  with pytest.raises(jaxcodec.CodecError, match="does not describe a codec"):
    jaxcodec.load(tmp_path)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  folder = tmp_path_factory.mktemp("codec")
  jaxcodec.save(MEAN_SCALE, folder)
  return folder


PIXELS = np.asarray((X[0] + 1) * 127.5, np.uint8)


def run(directory, *arguments) -> int:
  return cli.main([*map(str, arguments), "--codec", str(directory)])


def test_the_command_keeps_rotation_profile_and_grey(directory, tmp_path, capsys):
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  exif = Image.Exif()
  exif[0x0112] = 6  # Turn right by 90 degrees.
  turned = Image.fromarray(PIXELS).transpose(Image.Transpose.ROTATE_90)
  turned.save(tmp_path / "a.png", exif=exif, icc_profile=profile)
  assert run(directory, "encode", tmp_path / "a.png", tmp_path / "a.jxc") == 0
  assert "turned as its EXIF says" in capsys.readouterr().err
  assert run(directory, "decode", tmp_path / "a.jxc", tmp_path / "b.png") == 0
  with Image.open(tmp_path / "b.png") as decoded:
    assert decoded.info["icc_profile"] == profile
    assert decoded.getexif().get(0x0112, 1) == 1
    got = np.asarray(decoded)
  want = jaxcodec.decompress(
    jaxcodec.compress(MEAN_SCALE, PIXELS[None].astype(np.float32) / 127.5 - 1), MEAN_SCALE
  )
  np.testing.assert_array_equal(got, np.rint((want[0] + 1) * 127.5).astype(np.uint8))

  Image.fromarray(PIXELS[..., 0]).save(tmp_path / "grey.png")
  assert run(directory, "encode", tmp_path / "grey.png", tmp_path / "grey.jxc") == 0
  assert run(directory, "decode", tmp_path / "grey.jxc", tmp_path / "grey.webp") == 0
  assert run(directory, "decode", tmp_path / "grey.jxc", tmp_path / "grey.tif") == 0
  with Image.open(tmp_path / "grey.tif") as decoded:
    assert (decoded.mode, decoded.size) == ("L", (127, 65))


def made(name: str) -> bytes:
  """A picture file of a kind that is changed or refused."""
  rgb, file = Image.fromarray(PIXELS), io.BytesIO()
  if name == "16 bits":
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) << 8).save(file, "PNG")
  elif name == "16 bits RGB":
    file.write(rgb_16_png())
  elif name == "CMYK":
    rgb.convert("CMYK").save(file, "JPEG")
  elif name == "animated":
    rgb.save(file, "GIF", save_all=True, append_images=[rgb.rotate(180)])
  elif name == "alpha":
    Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])).save(file, "PNG")
  elif name == "opaque alpha":
    Image.fromarray(np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)])).save(file, "PNG")
  elif name == "palette":
    rgb.quantize(16).save(file, "PNG")
  elif name == "transparent palette":
    rgb.quantize(16).save(file, "PNG", transparency=0)
  elif name == "profile":
    rgb.save(file, "PNG", icc_profile=bytes(40_000))
  else:
    file.write(b"\x89PNG\r\n\x1a\n" + bytes(100))
  return file.getvalue()


def rgb_16_png() -> bytes:
  """A PNG of one pixel of 16 bits a sample, which Pillow reads as 8 without a word."""
  import struct
  import zlib

  def chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

  head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
  pixel = chunk(b"IDAT", zlib.compress(bytes(7)))
  return b"\x89PNG\r\n\x1a\n" + head + pixel + chunk(b"IEND", b"")


@pytest.mark.parametrize(
  ("name", "said"),
  [
    ("16 bits", "more than 8 bits a sample"),
    ("16 bits RGB", "more than 8 bits a sample"),
    ("CMYK", "colours as CMYK"),
    ("animated", "is 2 pictures"),
    ("alpha", "an alpha channel, which would be lost"),
    ("transparent palette", "an alpha channel, which would be lost"),
    ("profile", "an ICC profile of 40000 bytes"),
    ("damaged", "not a picture that can be read"),
  ],
)
def test_what_would_be_lost_is_refused_in_one_line(name, said, directory, tmp_path, capsys):
  (tmp_path / "a.img").write_bytes(made(name))
  assert run(directory, "encode", tmp_path / "a.img", tmp_path / "a.jxc") == 1
  error = capsys.readouterr().err
  assert said in error
  assert error.count("\n") == 1
  assert not (tmp_path / "a.jxc").exists()


@pytest.mark.parametrize(
  ("name", "said"), [("opaque alpha", "opaque everywhere"), ("palette", "palette turned to RGB")]
)
def test_what_is_changed_is_said(name, said, directory, tmp_path, capsys):
  (tmp_path / "a.img").write_bytes(made(name))
  assert run(directory, "encode", tmp_path / "a.img", tmp_path / "a.jxc") == 0
  assert said in capsys.readouterr().err


def test_the_command_refuses_the_other_kind_of_codec(directory, tmp_path, capsys):
  Image.fromarray(PIXELS).save(tmp_path / "a.png")
  call = ["encode", str(tmp_path / "a.png"), str(tmp_path / "a.jxc"), "--codec", "speech-16khz"]
  assert cli.main(call) == 2
  assert "a.png is a picture" in capsys.readouterr().err
  (tmp_path / "a.jxc").write_bytes(DATA)
  assert cli.main(["decode", str(tmp_path / "a.jxc"), str(tmp_path / "b.png")]) == 2
  assert "needs the codec 'mean_scale': give --codec" in capsys.readouterr().err
  assert run(directory, "decode", tmp_path / "a.jxc", tmp_path / "b.wav") == 2
  assert "a picture is written as one of .png" in capsys.readouterr().err
  call = ["decode", str(tmp_path / "a.jxc"), str(tmp_path / "b.png"), "--codec", "speech-16khz"]
  assert cli.main(call) == 2
  assert "a codec of sound, and the file holds a picture" in capsys.readouterr().err


# Prints the hashes of files' latents, read in a process of its own.
SCRIPT = """
import hashlib, sys
sys.path.insert(0, "tests")
import jaxcodec
from jaxcodec.entropy import container
from jaxcodec.functional import exact
from jaxcodec.image import latent_codec
for folder in sys.argv[1:]:
  codec, data = jaxcodec.load(folder), open(f"{folder}/a.jxc", "rb").read()
  y = latent_codec.decode_latents(codec, container.read_picture(data), 128, 128)
  print(hashlib.sha256(y.astype("<f4").tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_other_threads_flags_and_kernels_read_the_same_latents(tmp_path):
  folders, expected = [], []
  for case in ("autoregressive", "checkerboard", "channelwise", "mlic"):
    found = codec(case)
    folders.append(str(tmp_path / case))
    jaxcodec.save(found, tmp_path / case)
    data = jaxcodec.compress(found, X)
    (tmp_path / case / "a.jxc").write_bytes(data)
    y = latent_codec.decode_latents(found, container.read_picture(data), 128, 128)
    expected.append(hashlib.sha256(y.astype("<f4").tobytes()).hexdigest())
  for changed in (
    {"OPENBLAS_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"},
    {"OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Nehalem"},
    {"OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512_SKX"},
    {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true --xla_cpu_enable_fast_min_max=true"},
  ):
    call = [sys.executable, "-c", SCRIPT, *folders]
    out = subprocess.run(call, env=os.environ | changed, check=True, capture_output=True, text=True)
    assert out.stdout.split()[-len(expected) :] == expected, changed


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c not in ("factorized", "elic")])
def test_a_thousand_trials_of_noise_in_each_layer_read_the_same_latents(case, monkeypatch):
  found, rng, descaled, seen = codec(case), np.random.default_rng(0), exact._descaled, []
  header = container.read_picture(jaxcodec.compress(found, X[:, :1, :1]))
  expected = latent_codec.decode_latents(found, header, 64, 64)

  def noisy(sums, shift):
    before = sums.copy()
    sums += 1e-4 * rng.standard_normal(sums.shape)
    seen.append((sums != before).mean())
    return descaled(sums, shift)

  monkeypatch.setattr(exact, "_descaled", noisy)
  for _ in range(1000):
    np.testing.assert_array_equal(latent_codec.decode_latents(found, header, 64, 64), expected)
  assert len(seen) >= 1000
  assert min(seen) > 0  # The noise reaches the sums of every layer.


@pytest.mark.slow
def test_a_photograph_takes_what_its_likelihood_says(data):
  import jax

  with Image.open(data / "kodak" / "kodim23.png") as stored:
    x = np.asarray(stored, np.float32)[None] / 127.5 - 1
  for case in CASES:
    found = fitting(case)
    coded = jax.jit(lambda params, x, m=found.module: m.apply({"params": params}, x).likelihoods)
    likelihoods = coded(found.params, x)
    bits = sum(float(F.information_bits(part).sum()) for part in likelihoods.values())
    size = 8 * len(picture_file.compress(found, x))
    assert abs(size / bits - 1) < 0.01, case
