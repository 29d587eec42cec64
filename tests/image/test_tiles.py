"""Pictures in tiles: no seams, regions, files that are cut."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image
from recorded_pictures import codec, many_rates

import jaxcodec
from jaxcodec import cli, picture_file
from jaxcodec.entropy import container
from jaxcodec.entropy.picture import parse_picture, picture_bytes
from jaxcodec.image import latent_codec
from jaxcodec.image.checkerboard import Checkerboard
from jaxcodec.image.tiles import Tiling

pytestmark = pytest.mark.optimized

CODEC = codec("checkerboard")
HEIGHT, WIDTH = 193, 330


def picture() -> np.ndarray:
  rows, columns = np.mgrid[:HEIGHT, :WIDTH]
  waves = np.sin(rows / 9)[..., None] + np.cos(columns[..., None] / [7, 11, 19])
  noise = np.random.default_rng(0).normal(0, 0.1, (HEIGHT, WIDTH, 3))
  return np.clip(0.4 * waves + noise, -1, 1).astype(np.float32)[None]


X = picture()
DATA = jaxcodec.compress(CODEC, X, tile=64)
WHOLE = jaxcodec.decompress(DATA, CODEC)


def test_windows_of_one_size_hold_each_tile_and_what_it_reaches():
  tiling = Tiling((19, 30), 8, 3)
  seen = np.zeros(tiling.shape, int)
  for tile in tiling.all():
    places, around, window = tiling.places(tile), tiling.around(tile), tiling.window(tile)
    seen[places] += 1
    assert [s.stop - s.start for s in window] == [14, 14]
    for outer, inner in ((around, places), (window, around)):
      assert all(a.start <= b.start < b.stop <= a.stop for a, b in zip(outer, inner, strict=True))
    assert set(tiling.within(around)) >= {tile}
  assert (seen == 1).all()
  assert Tiling((5, 30), 8, 3).window((0, 3)) == (slice(0, 5), slice(16, 30))


def test_transforms_reach_as_far_as_their_layers_say():
  # 5x5 at strides of 2 to a sixteenth and back: 30 pixels, and 1 + 1/2 + 1/4 + 1/8 places.
  assert CODEC.reach == 2


def test_a_tile_decodes_as_in_the_whole_picture():
  """Tiles show no seams: with equal latents, all pixels are those of one synthesis."""
  described = container.read_header(DATA).streams[0]
  assert (described.tile, described.parts, described.num_tiles) == (64, 7, (4, 6))
  assert [len(layer) for layer in described.layers] == [1, 1]  # Of 12 channels.
  tiling = Tiling(picture_file.grid(CODEC, HEIGHT, WIDTH), 4, CODEC.reach)
  read, count = container.picture_chunks(DATA), 24
  latents = np.zeros((*tiling.shape, CODEC.module.latents), np.float32)
  for place, tile in enumerate(tiling.all()):
    latents[tiling.places(tile)] = latent_codec.decode_parts(
      CODEC, lambda n, place=place: read(n * count + place), 7, (4, 4), described.layers
    )
  whole = np.asarray(latent_codec.synthesise(CODEC, latents))[None, :HEIGHT, :WIDTH]
  np.testing.assert_allclose(WHOLE, np.clip(whole, -1, 1), atol=2e-6)
  # Latents are those of one analysis, to the half step of rounding.
  padded = np.pad(X[0], ((0, -HEIGHT % 64), (0, -WIDTH % 64), (0, 0)), mode="edge")
  y = latent_codec.analyse(CODEC, padded)
  assert np.abs(latents - y).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
  "region", [(0, 0, WIDTH, HEIGHT), (70, 130, 1, 1), (63, 10, 66, 183), (320, 190, 10, 3)]
)
def test_a_region_is_that_of_the_whole(region):
  left, top, width, height = region
  y = jaxcodec.decompress(DATA, CODEC, region=region)
  np.testing.assert_array_equal(y, WHOLE[:, top : top + height, left : left + width])


def test_a_region_needs_no_other_tiles(monkeypatch):
  read = []
  decode = latent_codec.decode_parts
  monkeypatch.setattr(latent_codec, "decode_parts", lambda *a: read.append(a) or decode(*a))
  jaxcodec.decompress(DATA, CODEC, region=(70, 70, 50, 50))
  assert len(read) == 9
  read.clear()
  jaxcodec.decompress(DATA, CODEC, region=(100, 96, 1, 1))
  assert len(read) == 4  # Two places further are others.
  # Damage elsewhere does no harm.
  layout = container.read_layout(DATA)
  damaged = bytearray(DATA)
  damaged[layout.starts[0][23] + 3] ^= 1
  y = jaxcodec.decompress(bytes(damaged), CODEC, region=(0, 0, 64, 64))
  np.testing.assert_array_equal(y, WHOLE[:, :64, :64])
  with pytest.raises(jaxcodec.CodecError, match="chunk 23 is damaged"):
    jaxcodec.decompress(bytes(damaged), CODEC)


def test_the_longer_the_beginning_the_better_the_picture():
  """With each part of all tiles the error falls; the last byte makes it whole."""
  starts = container.read_layout(DATA).starts[0]
  errors = []
  for chunks in (24, 72, 96, 168):
    y = jaxcodec.decompress(DATA[: starts[chunks]], CODEC, cut=True)
    assert y.shape == X.shape
    errors.append(np.square(y - WHOLE).mean())
  assert errors[0] > errors[1] > errors[2] > errors[3] == 0
  with pytest.raises(jaxcodec.CodecError, match="truncated"):
    jaxcodec.decompress(DATA[: starts[48]], CODEC)
  with pytest.raises(jaxcodec.CodecError, match="not one part"):
    jaxcodec.decompress(DATA[: starts[1] - 1], CODEC, cut=True)
  with pytest.raises(jaxcodec.CodecError, match="truncated"):
    jaxcodec.decompress(DATA[: starts[0] - 1], CODEC, cut=True)
  whole = jaxcodec.compress(CODEC, X[:, :64, :64])
  with pytest.raises(jaxcodec.CodecError, match="not one part"):
    jaxcodec.decompress(whole[:-1], CODEC, cut=True)


def test_a_codec_of_many_rates_has_tiles_too():
  found, part = many_rates(), X[:, :100, :100]
  files = [jaxcodec.compress(found, part, tile=64, quality=quality) for quality in (0, 80)]
  assert len(files[0]) < len(files[1])
  y = [jaxcodec.decompress(data, found) for data in files]
  assert y[0].shape == y[1].shape == part.shape
  assert np.abs(y[0] - y[1]).max() > 0.01
  (facts,) = jaxcodec.info(files[0], check=True)["streams"]
  assert (facts["tile"], facts["chunks"]) == (64, 28)


def test_forged_numbers_of_tiles_are_refused():
  header = container.read_header(DATA)
  (stream,) = header.streams
  read = container.picture_chunks(DATA)

  def forged(payloads, **changes):
    changed = container.Header(streams=(dataclasses.replace(stream, **changes),))
    records = [container.picture_record(changed, p, index=n) for n, p in enumerate(payloads)]
    return container.write(changed, records)

  payloads = [read(n) for n in range(168)]
  for parts in (6, 8):
    data = forged((payloads + payloads)[: 24 * parts], parts=parts)
    with pytest.raises(jaxcodec.CodecError, match=f"{parts} parts a tile, its codec 7"):
      jaxcodec.decompress(data, CODEC)
  with pytest.raises(jaxcodec.CodecError):
    jaxcodec.decompress(forged(payloads[:42], tile=128), CODEC)
  with pytest.raises(jaxcodec.CodecError, match="a layer of channels beyond 12"):
    jaxcodec.decompress(forged(payloads, layers=((0,), (12,))), CODEC)
  with pytest.raises(jaxcodec.CodecError, match="too many after a part"):
    jaxcodec.decompress(forged([payloads[0] + b"\0", *payloads[1:]]), CODEC)
  one, none = ((0,), (0,)), ((),)
  for wrong in ({"tile": 65}, {"tile": 8192}, {"parts": 0}, {"parts": 65}, {"tile": 0}):
    with pytest.raises(ValueError, match="tile"):
      dataclasses.replace(stream, **wrong)
  for wrong in (one, none, ((1 << 16,),), tuple((n,) for n in range(17))):
    with pytest.raises(ValueError, match="layer"):
      dataclasses.replace(stream, layers=wrong)
  body = picture_bytes(stream)
  at = body.index(bytes([7, 7, 1, 7, 2, 1]))
  for wrong in (b"\7\0", b"\7\1\1", b"\7\2\1\7", b"\7\4\1\7\1\2", b"\7\4\0\7\1\2"):
    with pytest.raises(jaxcodec.CodecError):
      parse_picture(memoryview(body[:at] + wrong))


def test_the_command_decodes_regions_and_beginnings(tmp_path, capsys):
  jaxcodec.save(CODEC, tmp_path / "codec")
  (tmp_path / "a.jxc").write_bytes(DATA)

  def run(*options: str) -> int:
    paths = [str(tmp_path / name) for name in ("a.jxc", "b.png")]
    return cli.main(["decode", *paths, "--codec", str(tmp_path / "codec"), "--force", *options])

  assert run("--region", "60,7,80,90") == 0
  samples = np.rint((WHOLE[0] + 1) * 127.5).astype(np.uint8)
  with Image.open(tmp_path / "b.png") as found:
    np.testing.assert_array_equal(np.asarray(found), samples[7:97, 60:140])
  assert run("--region", "60,7,800,90") == 2
  assert "is not within 330 x 193 pixels" in capsys.readouterr().err
  assert run("--region", "60,7,80") == 2
  (tmp_path / "a.jxc").write_bytes(DATA[: 2 * len(DATA) // 3])
  assert run() == 1
  assert run("--partial") == 0
  # And makes such files.
  paths = [str(tmp_path / name) for name in ("b.png", "c.jxc")]
  call = ["encode", *paths, "--codec", str(tmp_path / "codec"), "--progressive"]
  assert cli.main(call) == 0
  (stream,) = container.read_header((tmp_path / "c.jxc").read_bytes()).streams
  assert (stream.tile, stream.parts, stream.num_tiles) == (1024, 7, (1, 1))


@pytest.mark.slow
def test_residual_transforms_reach_seven_places():
  """Their layers' reaches add up to 6.6 places of synthesis."""
  module = Checkerboard(filters=2, latents=2, transform="residual")
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, None)["params"], x)
  params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, leaf.dtype), shapes)
  tables = np.zeros((2, 513), np.int32)
  found = latent_codec.LatentCodec(module=module, params=params, tables=tables, name="residual")
  assert found.reach == 7
