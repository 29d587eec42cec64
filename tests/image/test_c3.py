"""C3: its equations, the modules of its authors, and pictures that bring their own networks."""

import dataclasses
import functools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tpu_topologies
from golden_pictures import FITTED
from PIL import Image
from scipy import stats

import jaxcodec
from jaxcodec import cli, fitted_picture, functional as F, picture_file
from jaxcodec.entropy import container, laplace
from jaxcodec.functional import exact
from jaxcodec.image import c3, c3_code, c3_fit
from jaxcodec.image.c3 import EntropyNetwork, Synthesis
from jaxcodec.image.c3_fit import Fit

RECORDED = dict(np.load(pathlib.Path(__file__).parents[1] / "recorded" / "c3.npz"))
SIZE = (13, 21)
SHAPES = tuple(c3.grid_shapes(*SIZE, 4))
FIT = Fit(
  entropy=EntropyNetwork(widths=(6,), context=2),
  synthesis=Synthesis(widths=(5,), residuals=1),
  num_grids=3,
  rd_weight=1e-4,
  noise_steps=200,
  rounded_steps=50,
  learning_rate=3e-2,
)


def recorded_layers(part: str, count: int) -> dict:
  """Weights under our names; Haiku's convolutions see one place at a time but for the named."""
  layers = {}
  for n in range(count):
    name = "masked_layer_0" if part == "entropy" and n == 0 else f"layer_{n}"
    if part == "synthesis":
      name = "conv2_d" if n == 0 else f"conv2_d_{n}"
    kernel = RECORDED[f"{part}/{name}/w"]
    kernel = kernel.reshape(-1, kernel.shape[-1])
    if name == "masked_layer_0":
      kernel = kernel[: len(kernel) // 2]  # Taps before the middle; no others take part.
    layers[f"layer_{n}"] = {"kernel": kernel, "bias": RECORDED[f"{part}/{name}/b"]}
  return layers


@pytest.fixture(scope="module")
def computed():
  """What our modules give at the recorded weights and grids, in one program."""
  entropy = recorded_layers("entropy", 3)
  synthesis = recorded_layers("synthesis", 3)
  for n in range(2):
    name = "residual_conv" if n == 0 else f"residual_conv_{n}"
    synthesis[f"residual_{n}_kernel"] = RECORDED[f"synthesis/{name}/w"].reshape(27, 3)
    synthesis[f"residual_{n}_bias"] = RECORDED[f"synthesis/{name}/b"]

  def run(grids):
    flat = jnp.concatenate([grid.ravel() for grid in grids])
    loc, scale = EntropyNetwork().apply({"params": entropy}, c3.contexts_of(flat, SHAPES, 3))
    x = c3.stretched(grids, *SIZE)
    y = jnp.clip(Synthesis().apply({"params": synthesis}, x), 0, 1)
    bits = F.laplace_bits(flat / 0.4, loc / 0.4, scale / 0.4)
    return {"loc": loc, "scale": scale, "bits": bits, "stretched": x, "pixels": y}

  return jax.jit(run)([RECORDED[f"grid_{k}"] for k in range(4)])


@pytest.mark.parametrize("name", ["loc", "scale", "stretched", "pixels"])
def test_modules_equal_the_authors(name, computed):
  np.testing.assert_allclose(computed[name], RECORDED[name], rtol=1e-5, atol=1e-5)


def test_bits_equal_the_authors(computed):
  # Theirs lose digits in differences of logarithms that are nearly equal.
  np.testing.assert_allclose(computed["bits"], RECORDED["bits"], rtol=1e-4, atol=2e-5)
  np.testing.assert_allclose(computed["bits"].sum(), RECORDED["bits"].sum(), rtol=1e-5)


@pytest.mark.parametrize(("temperature", "a"), [(0.3, 2.0), (0.1, 1.0), (0.2, 1.5)])
def test_noise_and_soft_rounding_equal_the_authors(temperature, a):
  x, u, key = RECORDED["x"], RECORDED["u"], f"{temperature}/{a}"
  run = jax.jit(lambda t, a: (F.kumaraswamy(u, a), F.noisy_soft_round(x, u, t, a)))
  noise, noisy = run(temperature, a)
  np.testing.assert_allclose(noise, RECORDED[f"kumaraswamy/{key}"], rtol=2e-5)
  np.testing.assert_allclose(noisy, RECORDED[f"noisy/{key}"], atol=1e-4)
  assert a == 1 or abs(np.median(noise) - 0.5) < 0.02


def test_rounding_has_the_gradient_of_soft_rounding():
  @jax.jit
  def run(x):
    y, pull = jax.vjp(lambda x: F.hard_soft_round(x, 0.2), x)
    return y, pull(jnp.ones_like(x))[0]

  y, gradient = run(RECORDED["x"])
  np.testing.assert_array_equal(y, np.rint(RECORDED["x"]))
  np.testing.assert_array_equal(y, RECORDED["hard"])
  np.testing.assert_allclose(gradient, RECORDED["hard_gradient"], rtol=1e-4, atol=1e-6)


def test_laplace_bits_are_scipys_and_have_finite_gradients():
  x, loc = np.float32([0, 0, 3, -5, 40, 0.25, 7]), np.float32([0, 0.4, 2.6, -5, 0, 0.3, 900])
  scale = np.float32([1e-3, 0.05, 1, 2.5, 1, 300, 0.01])
  run = jax.jit(
    lambda *a: (F.laplace_bits(*a), jax.grad(lambda *a: F.laplace_bits(*a).sum(), (1, 2))(*a))
  )
  bits, gradients = run(x, loc, scale)
  d = [stats.laplace(a, b) for a, b in zip(loc.astype(float), scale.astype(float), strict=True)]
  ends = [sorted((-abs(v - m) - 0.5, -abs(v - m) + 0.5)) for v, m in zip(x, loc, strict=True)]
  mass = [each.cdf(m + b) - each.cdf(m + a) for each, m, (a, b) in zip(d, loc, ends, strict=True)]
  expected = np.minimum(-np.log2(np.maximum(mass, 1e-300)), 16)
  np.testing.assert_allclose(bits, expected, rtol=1e-3, atol=1e-6)
  assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_contexts_are_what_stands_before_and_their_gradient_goes_back():
  shapes, context = ((3, 5), (2, 1)), 2
  rng = np.random.default_rng(0)
  flat = rng.normal(size=17).astype(np.float32)
  weights = rng.normal(size=(17, 12)).astype(np.float32)
  run = jax.jit(
    lambda flat: (
      c3.contexts_of(flat, shapes, context),
      jax.grad(lambda x: (weights * c3.contexts_of(x, shapes, context)).sum())(flat),
    )
  )
  got, gradient = run(flat)
  expected, back, first = np.zeros((17, 12), np.float32), np.zeros(17), 0
  for height, width in shapes:
    for row, column in np.ndindex(height, width):
      for t, (down, right) in enumerate(c3.taps_of(context)):
        r, c = row + down, column + right
        if 0 <= r < height and 0 <= c < width:
          n, m = first + row * width + column, first + r * width + c
          assert m < n
          expected[n, t] = flat[m]
          back[m] += weights[n, t]
    first += height * width
  np.testing.assert_array_equal(got, expected)
  np.testing.assert_allclose(gradient, back, rtol=1e-5, atol=1e-5)


def test_the_decoder_works_as_little_as_it_should():
  """Products a pixel of the networks for Kodak, as the authors count them."""
  sizes = c3_code.shape_of(Fit()).sizes()
  products = {"entropy": 0, "synthesis": 0}
  for path, size in sizes.items():
    products[path[0]] += int(np.prod(size)) if len(size) == 2 else 0
  grids = sum(h * w for h, w in c3.grid_shapes(512, 768, 7)) / (512 * 768)
  assert [np.ceil(grids * products["entropy"]), products["synthesis"]] == RECORDED["macs"].tolist()
  count = {
    part: sum(int(np.prod(s)) for p, s in sizes.items() if p[0] == part) for part in products
  }
  assert count == {"entropy": 830, "synthesis": 711}


def test_gelu_in_whole_numbers_is_gelu_to_its_rounding():
  x = np.concatenate([np.arange(-40_000, 40_000, 37), [-(1 << 22), 1 << 22]]).astype(np.float64)
  real = x / exact.UNIT
  y = 0.5 * real * (1 + np.tanh(np.sqrt(2 / np.pi) * (real + 0.044715 * real**3)))
  np.testing.assert_allclose(exact.gelu(x) / exact.UNIT, y, atol=0.5 / exact.UNIT + 1e-9)


def test_tables_of_laplace_densities_are_those_of_scipy():
  rows, nearest = laplace.rows_of(
    np.array([0, 4096, -6144, 300_000]), np.array([0, 2 * 4096, -49_152, 90_000])
  )
  assert nearest.tolist() == [0, 1, -1, 73]
  table = np.diff(laplace.tables()[rows[:3]]) / 2**24
  for got, mean, scale in zip(table, (0, 0, -0.5), (1, np.exp(-1), np.exp(6)), strict=True):
    low = np.arange(-255, 256) - 0.5
    # Row 1 is the nearest of scales three thirty-seconds of an e-fold apart.
    known = stats.laplace(mean, scale if scale in (1, np.exp(6)) else np.exp(6 - 3 / 32 * 75))
    np.testing.assert_allclose(got[:-1], known.cdf(low + 1) - known.cdf(low), atol=3e-5)


DATA = FITTED.read_bytes()  # Of 30 x 41 pixels.
DESCRIBED = container.read_header(DATA).streams[0]


def test_a_file_takes_what_its_densities_say():
  shape, found = fitted_picture.integers(DATA, DESCRIBED)
  found.grids[0][7, 9] = found.grids[2][1, 1] = 0  # These two are escapes.
  networks = c3_code.networks_of(found.steps, found.arrays)
  flat = np.concatenate([grid.ravel() for grid in found.grids]).astype(np.float32)
  fit = shape.fit()
  bits = float(jax.jit(lambda: c3_fit.losses(fit, networks, flat, jnp.zeros((30, 41, 3))).bits)())
  without = c3_code.encode(shape, found._replace(grids=[]))
  payload = c3_code.encode(shape, found)
  assert abs(len(payload) - len(without) - bits / 8) < 0.005 * bits / 8 + 8


def test_far_integers_and_all_that_is_damaged():
  shape, found = fitted_picture.integers(DATA, DESCRIBED)
  far = [grid.copy() for grid in found.grids]
  far[0][3, 4], far[0][7, 1], far[2][0, 0] = 700, -1000, 999
  payload = c3_code.encode(shape, found._replace(grids=far))
  back = c3_code.decode(shape, payload, 30, 41)
  for got, expected in zip(back.grids, far, strict=True):
    np.testing.assert_array_equal(got, expected)
  refused = 0
  for seed in range(60):
    rng = np.random.default_rng(seed)
    forged = bytearray(payload)
    for at in rng.integers(len(forged), size=2):
      forged[at] = rng.integers(256)
    forged = forged[: rng.integers(len(forged))] if seed % 3 == 0 else forged
    try:
      some = c3_code.decode(shape, bytes(forged), 30, 41)
      assert max(np.abs(grid).max() for grid in some.grids) <= 1000
    except jaxcodec.CodecError:
      refused += 1
  assert refused >= 30
  header = container.Header(streams=(DESCRIBED,))
  for wrong in (b"", payload + b"\0", payload + b"12345678"):
    with pytest.raises(jaxcodec.CodecError):
      c3_code.decode(shape, wrong, 30, 41)
  for numbers in ((0,), shape.numbers()[:-1], (*shape.numbers(), 1), (11, *shape.numbers()[1:])):
    changed = dataclasses.replace(DESCRIBED, networks=numbers)
    data = container.write(
      container.Header(streams=(changed,)),
      [container.picture_record(container.Header(streams=(changed,)), payload)],
    )
    with pytest.raises(jaxcodec.CodecError, match="what it says of networks"):
      jaxcodec.decompress(data)
  data = container.write(header, [container.picture_record(header, payload)])
  with pytest.raises(jaxcodec.CodecError, match="MB of memory"):
    jaxcodec.decompress(data, max_memory=1000)


def test_networks_that_no_file_can_have_are_refused():
  for wrong in (
    dataclasses.replace(FIT, step=0.4001),
    dataclasses.replace(FIT, num_grids=11),
    dataclasses.replace(FIT, entropy=EntropyNetwork(widths=(65,))),
  ):
    with pytest.raises(ValueError, match=r"thousandths|no file has networks"):
      c3_code.shape_of(wrong)
  for quality, steps in ((101, None), (None, 0)):
    with pytest.raises(ValueError):
      fitted_picture.fit_of(quality, steps)
  assert fitted_picture.fit_of(0).rd_weight == 2e-2
  with pytest.raises(ValueError, match="pictures are"):
    fitted_picture.compress_many(np.zeros((3, 3, 3), np.uint8))


def test_the_command_says_what_does_not_go_together(tmp_path, capsys):
  (tmp_path / "a.jxc").write_bytes(DATA)
  back, pixels = str(tmp_path / "b.png"), str(tmp_path / "a.png")
  assert cli.main(["decode", str(tmp_path / "a.jxc"), back]) == 0
  with Image.open(back) as found:
    y = picture_file.decompress_samples(DATA, max_memory=10**9)
    np.testing.assert_array_equal(np.asarray(found), y)
  call = ["decode", str(tmp_path / "a.jxc"), back, "--force", "--codec", "photo"]
  assert cli.main(call) == 2
  assert "has networks of its own" in capsys.readouterr().err
  Image.fromarray(y).save(pixels)
  encode = ["encode", pixels, str(tmp_path / "c.jxc")]
  assert cli.main([*encode, "--codec", "c3", "--target-bpp", "1"]) == 2
  assert "takes --quality and --steps" in capsys.readouterr().err
  assert cli.main([*encode, "--steps", "10"]) == 2


@pytest.mark.slow
def test_pictures_fitted_together_come_back_better_than_their_means():
  rows, columns = np.mgrid[:19, :26]
  waves = np.stack([np.sin(rows / 4), np.cos(columns / 5), np.sin(rows / 3 + columns / 7)], -1)
  x = np.stack([0.8 * waves, -0.5 * waves[::-1]])
  x = np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)
  told: list[int] = []
  files = fitted_picture.compress_many(x, FIT, progress=told.append, metadata={"title": "Waves"})
  assert told == [100, 200, 250]
  for pixels, data in zip(x, files, strict=True):
    y = picture_file.decompress_samples(data, max_memory=10**9)
    assert y.shape == pixels.shape
    error = np.square(y.astype(float) - pixels).mean()
    assert error < 0.5 * np.square(pixels - pixels.mean(axis=(0, 1))).mean()
    # The public face, in floats, and a part of it.
    whole = jaxcodec.decompress(data)
    np.testing.assert_array_equal(np.rint((whole[0] + 1) * 127.5).astype(np.uint8), y)
    part = jaxcodec.decompress(data, region=(3, 4, 10, 9))
    np.testing.assert_array_equal(part, whole[:, 4:13, 3:13])
  (facts,) = jaxcodec.info(files[0], check=True)["streams"]
  assert (facts["codec"], facts["width"], facts["height"]) == ("c3", 26, 19)


@pytest.mark.slow
def test_a_picture_is_fitted_by_the_command_and_read_by_another_process(tmp_path):
  rows, columns = np.mgrid[:24, :24]
  pixels = np.stack([10 * rows, 10 * columns, 5 * (rows + columns)], -1).astype(np.uint8)
  Image.fromarray(pixels).save(tmp_path / "a.png")
  call = ["encode", str(tmp_path / "a.png"), str(tmp_path / "a.jxc"), "--codec", "c3"]
  assert cli.main([*call, "--steps", "30", "--quality", "80"]) == 0
  out = [str(tmp_path / name) for name in ("a.jxc", "b.png")]
  subprocess.run([sys.executable, "-m", "jaxcodec.cli", "decode", *out], check=True)
  with Image.open(tmp_path / "b.png") as found:
    assert found.size == (24, 24)
    y = picture_file.decompress_samples((tmp_path / "a.jxc").read_bytes(), max_memory=10**9)
    assert np.abs(np.asarray(found).astype(int) - y).max() <= 1


@pytest.mark.slow
def test_a_step_of_fitting_compiles_for_a_tpu():
  x = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
  params = jax.eval_shape(jax.vmap(lambda key: c3_fit.init(FIT, key, 16, 16)), keys)
  state = params, jax.eval_shape(jax.vmap(c3_fit._optimizer(FIT).init), params)
  numbers = jax.ShapeDtypeStruct((2,), jnp.int32)
  step = functools.partial(c3_fit._with_noise, FIT)
  compiled = tpu_topologies.compile_for("v5e", step, x, keys, state, numbers)
  assert compiled.memory_analysis().temp_size_in_bytes < 10**8
