"""One model of many rates: gains, what a file says of its quality, and coming to a size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recorded_pictures import LEVELS, LOGS, codec, many_rates

import jaxcodec
from jaxcodec import metrics, picture_target
from jaxcodec.entropy import container
from jaxcodec.image import files
from jaxcodec.image.picture_codec import Gains

ROWS, COLUMNS = np.mgrid[:65, :127]
X = np.stack([np.sin(ROWS / 9), np.cos(COLUMNS / 7), np.sin((ROWS + COLUMNS) / 11)], axis=-1)
X = (0.7 * X)[None].astype(np.float32)
CODEC, SHAPE = many_rates(), (1, 64, 64, 3)


def test_gains_between_levels_are_their_geometric_means():
  module, params = Gains(LEVELS, 12, 1.0), {"params": {"logarithms": LOGS}}
  qualities = np.asarray([0, 0.5, 1, 1.75, 2], np.float32)
  found = np.asarray(jax.jit(module.apply)(params, qualities))
  wanted = np.stack([np.interp(qualities, range(LEVELS), column) for column in LOGS.T], axis=-1)
  np.testing.assert_allclose(found[:, 0, 0], np.exp(wanted), rtol=1e-6)


def test_gains_start_a_factor_of_ten_apart():
  up, down = (
    np.asarray(Gains(5, 2, sign).init(jax.random.key(0), jnp.zeros(()))["params"]["logarithms"])
    for sign in (1.0, -1.0)
  )
  np.testing.assert_allclose(np.exp(up[-1] - up[0]), 10, rtol=1e-5)
  np.testing.assert_array_equal(up, -down)


def test_files_grow_with_quality_and_say_it():
  sizes, distances = [], []
  for quality in (0, 50.04, 100):
    data = jaxcodec.compress(CODEC, X, quality=quality)
    (stream,) = jaxcodec.info(data, check=True)["streams"]
    assert stream["quality"] == round(quality, 1)
    y = jaxcodec.decompress(data, CODEC)
    assert y.shape == X.shape
    sizes.append(len(data))
    distances.append(np.abs(y - jaxcodec.decompress(data, CODEC)).max())
  assert sizes[0] < sizes[1] < sizes[2]
  assert max(distances) == 0


def test_the_default_is_the_middle():
  assert jaxcodec.compress(CODEC, X) == jaxcodec.compress(CODEC, X, quality=50)


def test_wrong_qualities_are_refused():
  for wrong in (-1, 100.5, float("nan")):
    with pytest.raises(ValueError, match="a quality is 0 to 100"):
      jaxcodec.compress(CODEC, X, quality=wrong)
  with pytest.raises(ValueError, match="has one quality"):
    jaxcodec.compress(codec("checkerboard"), X, quality=50)
  with pytest.raises(ValueError, match="needs a quality"):
    jax.eval_shape(lambda x: CODEC.module.apply({"params": CODEC.params}, x), np.zeros(SHAPE))


def test_a_forged_quality_is_refused():
  data = jaxcodec.compress(CODEC, X)
  header, payload = container.read_header(data), container.read_picture(data)
  without = dataclasses.replace(header.streams[0], quality=None)
  forged = dataclasses.replace(header, streams=(without,))
  record = container.picture_record(forged, payload)
  with pytest.raises(jaxcodec.CodecError, match="do not agree on whether there are qualities"):
    jaxcodec.decompress(container.write(forged, [record]), CODEC)
  with pytest.raises(ValueError, match="quality must be 0 to 1000"):
    dataclasses.replace(header.streams[0], quality=1001)


def test_a_saved_codec_of_halves_reads_its_files(tmp_path):
  jaxcodec.save(CODEC, tmp_path / "whole")
  jaxcodec.save(CODEC, tmp_path / "half", dtype=np.float16)
  whole, half = (jaxcodec.load(tmp_path / name) for name in ("whole", "half"))
  assert whole.fingerprint == CODEC.fingerprint != half.fingerprint
  sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
  weights = sum(leaf.size for leaf in jax.tree.leaves(CODEC.params))
  assert sizes[0] - sizes[1] == pytest.approx(2 * weights, rel=0.01)
  data = jaxcodec.compress(half, X, quality=30)
  y = jaxcodec.decompress(data, half)
  again = jaxcodec.load(tmp_path / "half")
  np.testing.assert_array_equal(jaxcodec.decompress(data, again), y)


def test_a_file_comes_to_a_size_or_a_distortion():
  pixels = X[..., 0].size
  low, high = (8 * len(jaxcodec.compress(CODEC, X, quality=q)) / pixels for q in (30, 31))
  data = picture_target.compress_to(CODEC, X, bits_per_pixel=(low + high) / 2)
  assert low <= 8 * len(data) / pixels <= (low + high) / 2
  wanted = files.to_bytes(X, 3)

  def psnr(data: bytes) -> float:
    return metrics.psnr(wanted, files.to_bytes(jaxcodec.decompress(data, CODEC), 3))

  # Drawn weights do not get better with quality; what is promised holds all the same.
  target = psnr(jaxcodec.compress(CODEC, X, quality=100)) - 0.01
  assert psnr(picture_target.compress_to(CODEC, X, psnr=target)) >= target
  for call, said in (
    ({"bits_per_pixel": 1e-3}, "its lowest quality has"),
    ({"psnr": 99.0}, "its highest quality has"),
    ({}, "give either"),
    ({"psnr": 1.0, "bits_per_pixel": 1.0}, "give either"),
  ):
    with pytest.raises(ValueError, match=said):
      picture_target.compress_to(CODEC, X, **call)
  with pytest.raises(ValueError, match="has one quality"):
    picture_target.compress_to(codec("checkerboard"), X, psnr=1.0)
