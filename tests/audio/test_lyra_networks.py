"""Lyra's networks at a tiny size, of floats and of integers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcodec
from jaxcodec.audio.lyra import Lyra, LyraConfig
from jaxcodec.audio.lyra_exact import LyraExact

NET = LyraConfig(
  widths=(4, 8),
  kernel_sizes=(6, 4),
  strides=(3, 2),
  groups=(1, 2),
  unit_groups=(2,),
  dilations=(1, 3),
  features=4,
  last_groups=2,
)
FIELDS = {"net": NET, "num_codebooks": 3, "codebook_size": 4, "sample_rate": 300}
HOP, FRAMES = 6, 6
MODULES = {
  "float": Lyra(bitrates=(300,), **FIELDS),
  "exact": LyraExact(bitrates=(300,), **FIELDS),
}
BOTH = pytest.mark.parametrize("kind", MODULES)

encode = jax.jit(jaxcodec.encode)
decode = jax.jit(jaxcodec.decode)
encode_chunk = jax.jit(jaxcodec.encode_chunk, static_argnames="final")
decode_chunk = jax.jit(jaxcodec.decode_chunk, static_argnames="final")


def random_params(module):
  """Parameters of the sizes of trained ones; drawn here, as compiling `init` takes longer."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(module.init, jax.random.key(0), signal(1))["params"]
  draw = {
    "kernel": lambda leaf: rng.normal(size=leaf.shape) * np.prod(leaf.shape[:-1]) ** -0.5,
    "bias": lambda leaf: 0.1 * rng.normal(size=leaf.shape),
    "tail_bias": lambda leaf: 0.1 * rng.normal(size=leaf.shape),
    "codebooks": lambda leaf: rng.normal(size=leaf.shape),
    "scale": lambda leaf: np.full(leaf.shape, 0.02),
    "multiplier": lambda leaf: rng.integers(2**30, 2**31 - 1, leaf.shape),
    "multipliers": lambda leaf: rng.integers(2**30, 2**31 - 1, leaf.shape),
    "shift": lambda leaf: np.full(leaf.shape, -6),
    # Of a sum: the last of its three factors takes back the 20 bits of the others.
    "shifts": lambda leaf: np.array([0, -1, -19][: leaf.size]),
    "zero_point": lambda leaf: rng.integers(-40, 40, leaf.shape),
  }

  def leaf_of(path, leaf):
    value = draw[path[-1].key](leaf)
    if path[-1].key == "kernel" and leaf.dtype == jnp.int8:
      value = rng.integers(-127, 128, leaf.shape)
    return jnp.asarray(value, leaf.dtype)

  return jax.tree_util.tree_map_with_path(leaf_of, shapes)


@functools.cache
def codec_of(kind):
  """Random weights, and codebooks as wide as the latents."""
  module, x = MODULES[kind], signal(2)
  params = random_params(module)
  latents = lambda module, x: module.encoder(x)[0]  # noqa: E731
  z = jax.jit(lambda p, x: module.apply({"params": p}, x, method=latents))(params, x)
  params["quantizer"]["codebooks"] *= z.std()
  return jaxcodec.Codec(module=module, params=params, prior=jnp.ones((3, 4), int), name=kind)


def signal(batch, frames=FRAMES, seed=0):
  x = np.random.default_rng(seed).normal(size=(batch, frames * HOP, 1))
  return np.clip(0.3 * x, -1, 1).astype(np.float32)


@BOTH
def test_chunks_give_the_codes_and_the_wave_of_the_whole(kind):
  codec, x = codec_of(kind), signal(2)
  want = encode(codec, x)
  assert want.shape == (2, FRAMES, 3)
  assert len(np.unique(want)) == 4
  wave = decode(codec, want)
  assert np.std(wave) > 1e-4
  state, codes, waves = jaxcodec.init_stream(codec, batch=2), [], []
  for start, stop in ((0, 2), (2, 4), (4, 6)):
    state, part = encode_chunk(codec, state, x[:, start * HOP : stop * HOP])
    state, y = decode_chunk(codec, state, part)
    codes.append(part)
    waves.append(y)
  np.testing.assert_array_equal(np.concatenate(codes, axis=1), want)
  np.testing.assert_allclose(np.concatenate(waves, axis=1), wave, atol=1e-5)


@BOTH
def test_a_last_frame_is_filled_up_with_zeros(kind):
  codec, x = codec_of(kind), signal(2)
  cut = np.array(x)
  cut[:, -5:] = 0
  np.testing.assert_array_equal(encode(codec, x[:, :-5]), encode(codec, cut))


@BOTH
def test_nothing_depends_on_what_comes_later(kind):
  codec, x, y = codec_of(kind), signal(2), signal(2, seed=1)
  y[:, : 3 * HOP] = x[:, : 3 * HOP]
  codes = [encode(codec, wave) for wave in (x, y)]
  np.testing.assert_array_equal(codes[0][:, :3], codes[1][:, :3])
  assert np.any(codes[0][:, 3:] != codes[1][:, 3:])
  mixed = jnp.concatenate([codes[0][:, :3], codes[1][:, 3:]], axis=1)
  waves = [decode(codec, c) for c in (codes[0], mixed)]
  np.testing.assert_allclose(waves[0][:, : 3 * HOP], waves[1][:, : 3 * HOP], atol=1e-6)


@BOTH
def test_a_codec_survives_its_own_directory(kind, tmp_path):
  codec = codec_of(kind)
  jaxcodec.save(codec, tmp_path)
  back = jaxcodec.load(tmp_path, exact=kind == "exact")
  assert back.module == codec.module
  for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(codec), strict=True):
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_the_released_shape_has_the_parameters_and_rates_of_lyra():
  module = Lyra()
  shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 320, 1)))["params"]
  count = {name: sum(leaf.size for leaf in jax.tree.leaves(shapes[name])) for name in shapes}
  # As counted in the released files.
  assert count["encoder"] == 660_352
  assert count["decoder"] == 660_289
  assert count["quantizer"] == 46 * 16 * 64
  assert (module.hop_length, module.sample_rate) == (320, 16_000)
  assert [module.num_active(rate) for rate in module.bitrates] == [16, 30, 46]


def test_a_tail_longer_than_a_frame_is_refused():
  net = dataclasses.replace(NET, kernel_sizes=(6, 5))
  module = dataclasses.replace(MODULES["exact"], net=net)
  with pytest.raises(ValueError, match="a tail of 3 samples reaches past the next frame of 2"):
    jax.eval_shape(module.init, jax.random.key(0), signal(1))


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"strides": (3, 2, 2)}, "a level has a width"),
    ({"unit_groups": (2, 2)}, "a level has a width"),
    ({"dilations": ()}, "a level has a width"),
    ({"strides": (3, 5)}, "do not cover strides"),
  ],
)
def test_a_shape_that_does_not_fit_is_named(change, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(NET, **change)
