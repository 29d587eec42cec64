"""Runs of codecs of rounded latents: their loss, their start, and what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from random_params import draw_params

import jaxcodec
from configs import hyperprior, mlicv2
from configs.photo import get_config, tiny
from jaxcodec.image.hyperprior import ScaleHyperprior
from jaxcodec.image.picture_codec import Coded
from jaxcodec.layers.gdn import root
from jaxcodec.training import loop, principal, rate_distortion, tasks

ROWS, COLUMNS = np.mgrid[:64, :64]


def pictures(count: int) -> np.ndarray:
  """Waves of several lengths, float32 [count, 64, 64, 3]."""
  phase = np.arange(count)[:, None, None]
  waves = [np.sin(ROWS / 9 + phase), np.cos(COLUMNS / 7 - phase), np.sin((ROWS + COLUMNS) / 5)]
  return 0.7 * np.stack(np.broadcast_arrays(*waves), axis=-1).astype(np.float32)


def test_the_loss_is_bits_a_pixel_and_lambda_times_the_error_of_bytes():
  x = np.zeros((2, 4, 8, 3), np.float32)
  x_hat = x + np.asarray([0.2, 0.4], np.float32).reshape(2, 1, 1, 1)
  likelihoods = {"y": np.full((2, 1, 2, 4), 0.5), "z": np.full((2, 1, 1, 2), 0.25)}
  coded = Coded(x_hat, None, likelihoods, 0.0)
  found = jax.jit(rate_distortion.rate_distortion)(x, coded, np.asarray([0.01, 0.1]))
  bits, squared, loss = (np.asarray(part) for part in found)
  np.testing.assert_allclose(bits, [12 / 32] * 2, rtol=1e-6)
  np.testing.assert_allclose(squared, [25.5**2, 51.0**2], rtol=1e-5)
  np.testing.assert_allclose(loss, bits + [0.01, 0.1] * squared, rtol=1e-6)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"lambdas": (0.2, 0.1)}, "the lower one first"),
    ({"codec": get_config().codec.clone(levels=0), "principal_batches": 0}, "lambdas="),
    ({"codec": get_config().codec.clone(levels=1)}, "codec.levels must be 0"),
    ({"selective_share": 1.5}, "selective_share=1.5 must be 0 to 1"),
    ({"codec": get_config().codec.clone(filters=40)}, "principal_batches needs"),
    ({"codec": get_config().codec.clone(transform="residual", filters=128)}, "principal_batches"),
    ({"data": dataclasses.replace(get_config().data, size=(128, 100))}, "multiples of 64"),
  ],
)
def test_contradictions_name_their_fields(changes, said):
  tasks.check(get_config())
  with pytest.raises(ValueError, match=said):
    tasks.check(dataclasses.replace(get_config(), **changes))


PATCHES = tiny().codec.clone(latents=24)


@pytest.mark.parametrize(
  "module",
  [PATCHES, PATCHES.clone(levels=0), PATCHES.clone(transform="gdn"), ScaleHyperprior(48, 24)],
  ids=["patches", "patches, one rate", "squares", "squares, one rate"],
)
def test_a_start_from_principal_components_decodes_pictures_before_any_step(module):
  """With as many latents as the waves need, and fine steps, little is lost."""
  low, high = tiny().lambdas
  lambdas, qualities = ((low, high), (np.float32(1),)) if module.levels else ((high, high), ())
  x = pictures(4)
  drawn = draw_params(module, x, None, *qualities)
  for half in ("g_a", "g_s"):  # As layers start: nothing added, and norms of one.
    for layer in drawn[half].values():
      if "beta" in layer:
        layer["beta"] = root(jnp.ones_like(layer["beta"]))
      if "bias" in layer:
        layer["bias"] = jnp.zeros_like(layer["bias"])

  @jax.jit
  def run(params, x):
    params = principal.with_components(params, x, lambdas=lambdas)
    y, _ = module.apply({"params": params}, x, *qualities, method="analyse")
    x_hat = module.apply({"params": params}, jnp.round(y), *qualities, method="synthesise")
    return y, x_hat

  y, x_hat = run(drawn, x)
  energy = np.square(np.asarray(y)).mean(axis=(0, 1, 2))
  assert energy[:4].sum() > 0.5 * energy.sum()  # Those of most energy come first.
  error = np.square(127.5 * (np.asarray(x_hat) - x)).mean()
  assert error < 0.02 * np.square(127.5 * x).mean()


@pytest.mark.slow
def test_a_step_of_mlicv2_is_told_when_to_leave_latents_out(monkeypatch):
  """Traced, not run: its gradient takes minutes to compile."""
  config, seen = mlicv2.tiny(), []
  code = type(config.codec).code

  def spied(self, *arguments, selective=True, **how):
    seen.append(selective)
    return code(self, *arguments, selective=selective, **how)

  monkeypatch.setattr(type(config.codec), "code", spied)
  state = jax.eval_shape(lambda: rate_distortion.init_state(jax.random.key(0), config))
  step = functools.partial(rate_distortion.train_step, config=config)
  new, metrics = jax.eval_shape(step, state, pictures(2), jax.random.key(0))
  assert jax.tree.structure(new) == jax.tree.structure(state)
  assert "objective" in metrics
  assert isinstance(seen[-1], jax.core.Tracer)


@pytest.mark.slow
@pytest.mark.parametrize("tiny", [tiny, hyperprior.tiny], ids=["many rates", "one rate"])
def test_three_steps_make_a_codec_that_codes(tmp_path, tiny):
  for i, x in enumerate(pictures(3)):
    Image.fromarray(np.asarray(127.5 * (x + 1), np.uint8)).save(tmp_path / f"{i}.png")
  config = tiny()
  data = dataclasses.replace(config.data, sources=(str(tmp_path),))
  config = dataclasses.replace(config, data=data, accumulate=2)
  state = loop.run(config, tmp_path / "run", quiet=True, devices=jax.devices()[:1])
  assert (int(state.step), int(state.skipped)) == (3, 0)
  codec = jaxcodec.load(tmp_path / "run")
  assert codec.name == config.name
  x = pictures(1)
  qualities = [{"quality": quality} for quality in (0, 100)] if config.codec.levels else [{}]
  files = [jaxcodec.compress(codec, x, **quality) for quality in qualities]
  assert sorted(set(map(len, files))) == list(map(len, files))
  assert jaxcodec.decompress(files[-1], codec).shape == x.shape
