"""Latents refined for a picture: the annealing, and files that are better by what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import special

import jaxcodec
from jaxcodec import cli, picture_file
from jaxcodec.demo_pictures import bundled_pictures
from jaxcodec.image import refine


def test_the_temperature_is_the_published_one_drawn_in():
  assert refine.temperature(0, 2000) == 0.5
  np.testing.assert_allclose(refine.temperature(2000, 2000), np.exp(-1.3))
  np.testing.assert_allclose(refine.temperature(90, 100), np.exp(-1.1))


def test_latents_are_drawn_between_their_two_steps_as_the_logits_say():
  share, tau, mean = 0.3, 0.4, np.float32(0.45)
  z = np.full(20_000, mean - 3 + share, np.float32)

  @jax.jit
  def run(z, tau):
    drawn, back = jax.vjp(lambda z: refine.annealed(jax.random.key(0), tau)(z, mean), z)
    return drawn - mean, back(jnp.ones_like(z))[0]

  drawn, slope = (np.asarray(part) for part in run(z, tau))
  assert (drawn >= -3).all()
  assert (drawn <= -2).all()
  below, above = np.exp(-np.arctanh([share, 1 - share]) / tau)
  # The larger of logits with Gumbel noise is a draw from their softmax.
  found, wanted = (drawn > -2.5).mean(), above / (below + above)
  assert abs(found - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / z.size)
  assert (slope > 0).any()
  cold, _ = run(z, 1e-3)
  np.testing.assert_allclose(cold, -3, atol=1e-6)
  for whole in (mean - 2, mean + 1e-7):  # At and next to a whole step there is a slope as well.
    assert np.isfinite(run(np.full_like(z, whole), 0.5)[1]).all()
  # Two whole steps are as near at a half, however cold.
  half, _ = run(np.full_like(z, mean + 0.5), 0.01)
  assert abs((np.asarray(half) > 0.5).mean() - special.expit(0)) < 0.02


TRADE_OFF = 0.014  # About what the bundled codec was trained with at quality 50.


@pytest.mark.slow
def test_refined_pictures_cost_less_and_any_reader_decodes_them(tmp_path, capsys):
  found = jaxcodec.load("photo")
  with Image.open(bundled_pictures()[0]) as stored:
    picture = stored.convert("RGB").crop((100, 60, 200, 125))
  x = np.asarray(picture, np.float32)[None] / 127.5 - 1

  def cost(**changes) -> float:
    data = picture_file.compress(found, x, quality=50, **changes)
    error = np.square(127.5 * (jaxcodec.decompress(data, found) - x)).mean()
    return 8 * len(data) / x[..., 0].size + TRADE_OFF * float(error)

  own, padded = cost(), np.pad(x[0], ((0, 63), (0, 28), (0, 0)), mode="edge")
  assert cost(refine=30, trade_off=TRADE_OFF) < 0.98 * own
  # Its own curve goes up by about as much.
  assert TRADE_OFF / 3 < refine.trade_off_of(found, padded, 3.5, size=(65, 100)) < 3 * TRADE_OFF
  with pytest.raises(ValueError, match="one quality does not show its trade-off"):
    refine.trade_off_of(found, padded, None)

  picture.save(tmp_path / "a.png")
  call = ["encode", str(tmp_path / "a.png"), str(tmp_path / "a.jxc")]
  assert cli.main([*call, "--refine", "2", "--trade-off", str(TRADE_OFF)]) == 0
  assert jaxcodec.decompress((tmp_path / "a.jxc").read_bytes(), found).shape == x.shape
  for wrong, said in (
    (["--trade-off", "0.1"], "--trade-off goes with it"),
    (["--refine", "5", "--target-bpp", "1"], "--refine goes with --quality"),
    (["--refine", "5", "--trade-off", "-1"], "a trade-off above zero"),
  ):
    assert cli.main([*call, "--force", *wrong]) == 2
    assert said in capsys.readouterr().err
