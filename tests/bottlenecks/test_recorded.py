"""Against the reference implementations, as scripts of `tests/recorded` have recorded them.

Codes are equal, outputs within 1e-5, gradients within 1e-4, running averages after three updates
within 1e-5. Where a reference is wrong, a test says by how much it differs from ours.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec import bottlenecks as B, functional as F

RECORDED = pathlib.Path(__file__).parents[1] / "recorded"
equal = np.testing.assert_array_equal
output_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
gradient_close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


@functools.cache
def recorded(case: str, name: str = "bottlenecks") -> dict[str, np.ndarray]:
  with np.load(RECORDED / f"{name}.npz") as file:
    return {name.split("/")[1]: file[name] for name in file.files if name.startswith(case + "/")}


def trained(module, losses):
  """`(out, (to_z, to_params))` of <weight, z_q> + pull * losses(out), one compiled program."""

  def loss(z, params, weight, mask, pull):
    out = module.apply({"params": params}, z, mask)
    return jnp.vdot(weight, out.z) + pull * losses(out), out

  step = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))

  def run(params, z, weight, mask=None, pull=1.0):
    gradients, out = step(z, params, weight, mask, pull)
    return out, gradients

  return run


def only_output(out):
  return 0.0


def only_loss(out):
  return out.loss


def follow_averages(found, module, shape, loss_weight=1.0, steps=3):
  """Three updates: codes, outputs, losses and gradients of each, and the state after them."""
  step = trained(module, lambda out: loss_weight * out.loss)
  move = jax.jit(functools.partial(F.ema_update, decay=0.8))
  codebooks = found["codebook0"].reshape(shape)
  ema = F.ema_state(codebooks)
  for n in range(steps):
    codebooks_then = found[f"codebook{n}"].reshape(shape)
    output_close(codebooks, codebooks_then)
    out, (to_z, _) = step({"codebooks": codebooks_then}, found[f"z{n}"], found[f"weight{n}"])
    equal(out.codes, found[f"codes{n}"].reshape(out.codes.shape))
    output_close(out.z, found[f"z_q{n}"])
    output_close(out.loss, found[f"loss{n}"].squeeze())
    gradient_close(to_z, found[f"to_z{n}"])
    codebooks, ema = move(ema, out.statistics)
    if isinstance(module, B.CosineVQ):
      codebooks = F.unit(codebooks)
  output_close(ema.counts, found["counts"].reshape(shape[:-1]))
  output_close(ema.sums, found["sums"].reshape(shape))
  output_close(codebooks, found["moved"].reshape(shape))


@pytest.mark.parametrize(
  ("case", "module", "shape"),
  [
    ("ema", B.VQ(8, 6), (1, 8, 6)),
    ("rotation", B.VQ(8, 6, through=F.rotate), (1, 8, 6)),
    ("cosine", B.CosineVQ(8, 6), (1, 8, 6)),
    pytest.param("product", B.GroupResidualVQ(2, 1, 8, 6), (2, 1, 8, 3), marks=pytest.mark.slow),
  ],
)
def test_moving_averages_as_vector_quantize_pytorch(case, module, shape):
  follow_averages(recorded(case), module, shape)


def test_masks_as_vector_quantize_pytorch():
  found = recorded("masked")
  out = jax.jit(B.VQ(8, 6).apply)(
    {"params": {"codebooks": found["codebook"]}}, found["z"], found["mask"]
  )
  equal(out.codes[..., 0], found["codes"])
  output_close(out.z, found["z_q"])
  output_close(out.loss, found["loss"].squeeze())
  _, ema = F.ema_update(F.ema_state(found["codebook"]), out.statistics, 0.8)
  output_close(ema.counts, found["counts"])
  output_close(ema.sums, found["sums"])


def test_restarts_as_vector_quantize_pytorch():
  """Which entries restart, and what their counts and sums become; which vectors is drawn."""
  found = recorded("restart")
  z = found["z"].reshape(1, -1, 6)
  statistics = F.residual_statistics(
    z[0], F.residual_encode(z[0], found["codebook"]), found["codebook"]
  )
  moved, ema = F.ema_update(F.ema_state(found["codebook"]), statistics, 0.8)
  moved, ema = F.restart_dead_codes(jax.random.key(0), moved, ema, z, 0.9)
  output_close(ema.counts, found["counts"])
  dead = found["counts"][0] == np.float32(0.9)
  assert 0 < dead.sum() < 8
  output_close(np.asarray(moved)[0, ~dead], found["moved"][0, ~dead])
  for ours, theirs in zip(np.asarray(moved)[0, dead], found["moved"][0, dead], strict=True):
    for entry in (ours, theirs):
      assert (z[0] == entry).all(axis=-1).any()
  output_close(np.asarray(ema.sums)[0, dead], 0.9 * np.asarray(moved)[0, dead])


def test_gradient_codebook_as_vector_quantize_pytorch():
  """Its one loss pulls both ways: the sum of our two."""
  found = recorded("gradient")
  step = trained(B.VQ(8, 6), lambda out: out.loss + out.codebook_loss)
  out, (to_z, to_params) = step({"codebooks": found["codebook"]}, found["z"], found["weight"])
  equal(out.codes[..., 0], found["codes"])
  output_close(out.loss, found["loss"].squeeze())
  output_close(out.codebook_loss, found["loss"].squeeze())
  # There the codebook's gradient and the encoder's are each twice: of a loss seen from both sides.
  gradient_close(to_z, found["to_z"])
  gradient_close(to_params["codebooks"], found["to_codebook"])


def test_simvq_as_vector_quantize_pytorch():
  found = recorded("simvq")
  step = trained(B.SimVQ(8, 6), lambda out: 0.25 * out.loss + out.codebook_loss)
  params = {"frozen": found["frozen"], "map": {"kernel": found["map"]}}
  out, (to_z, to_params) = step(params, found["z"], found["weight"])
  equal(out.codes[..., 0], found["codes"])
  output_close(out.z, found["z_q"])
  output_close(0.25 * out.loss + out.codebook_loss, found["loss"])
  gradient_close(to_z, found["to_z"])
  gradient_close(to_params["map"]["kernel"], found["to_map"])
  assert not np.any(to_params["frozen"])


def test_kmeans_as_vector_quantize_pytorch():
  found = recorded("kmeans")
  rows = found["rows"]
  centres, counts = F.lloyd(rows, found["start"], 5, np.ones(len(rows), bool))
  output_close(centres, found["means"])
  equal(counts, found["counts"])
  equal(np.asarray(centres)[9], found["start"][9])


def residual_steps(found, module, shape, scale):
  """Three updates; the reference's output gradient is `scale` times ours, which is the identity."""
  step = trained(module, only_loss)
  stages = found["codes0"].shape[-1]
  codebooks = found["codebook"].reshape(shape)
  ema = F.ema_state(codebooks)
  decay = 0.99 if module.num_bands else 0.8
  for n in range(3):
    params, z, weight = {"codebooks": codebooks}, found[f"z{n}"], found[f"weight{n}"]
    out, (to_z, _) = step(params, z, weight, pull=0.0)
    equal(out.codes, found[f"codes{n}"])
    output_close(out.z, found[f"z_q{n}"])
    output_close(out.loss, found[f"loss{n}"].mean())
    equal(to_z, weight)
    gradient_close(scale * weight, found[f"through{n}"])
    _, (to_z, _) = step(params, z, 0 * weight)
    gradient_close(stages * to_z, found[f"pull{n}"])
    codebooks, ema = F.ema_update(ema, out.statistics, decay)
  output_close(ema.counts, found["counts"].reshape(shape[:-1]))
  output_close(ema.sums, found["sums"].reshape(shape))
  output_close(codebooks, found["moved"].reshape(shape))


def test_residual_as_vector_quantize_pytorch_but_for_the_scale_of_the_gradient():
  """There each stage passes the output's gradient to z: it grows with the number of stages."""
  residual_steps(recorded("residual"), B.ResidualVQ(3, 8, 6), (3, 8, 6), scale=3)


def test_masked_channels_as_language_codec_but_for_the_scale_of_the_gradient():
  """There the bands pass the gradient once together and each further stage once more."""
  found = recorded("bands")
  residual_steps(found, B.ResidualVQ(5, 8, 7, num_bands=3), (5, 8, 7), scale=3)
  module = B.ResidualVQ(5, 8, 7, num_bands=3)
  with pytest.raises(ValueError, match=r"codes must be \[..., 3 to 5\], got shape"):
    module.apply(
      {"params": {"codebooks": found["codebook"]}}, np.zeros((1, 2), np.int32), method="decode"
    )


@pytest.mark.slow
def test_shared_codebooks_as_vector_quantize_pytorch_but_for_one_update_a_batch():
  """There each stage in turn decays the averages, so that the last weighs most; ours sums them."""
  found = recorded("residual_shared")
  module = B.ResidualVQ(3, 8, 6, shared=True)
  quantize = jax.jit(module.apply)
  statistics = jax.jit(F.residual_statistics)
  move = jax.jit(functools.partial(F.ema_update, decay=0.8))
  book = found["codebook"][:1]
  ema = F.ema_state(book)
  for n in range(3):
    out = quantize({"params": {"codebooks": book}}, found[f"z{n}"])
    equal(out.codes, found[f"codes{n}"])
    output_close(out.z, found[f"z_q{n}"])
    rows, codes = found[f"z{n}"].reshape(-1, 6), out.codes.reshape(-1, 3)
    stages = statistics(rows, codes, np.repeat(book, 3, axis=0))
    jax.tree.map(lambda ours, each: output_close(ours[0], each.sum(axis=0)), out.statistics, stages)
    for q in range(3):
      book, ema = move(ema, jax.tree.map(lambda x, q=q: x[q : q + 1], stages))
  output_close(ema.counts, found["counts"][:1])
  output_close(ema.sums, found["sums"][:1])
  output_close(book, found["moved"][:1])


def test_groups_as_hifi_codec_but_for_what_pulls_the_encoder():
  """There the second stage's commitment never reaches the encoder; ours adds it."""
  found = recorded("groups")
  module = B.GroupResidualVQ(2, 2, 4, 512)
  losses = lambda out: 0.25 * out.loss + out.codebook_loss  # noqa: E731
  out, (to_z, to_params) = trained(module, losses)(
    {"codebooks": found["codebooks"]}, found["z"], 0 * found["weight"]
  )
  equal(out.codes, found["codes"])
  output_close(out.z, found["z_q"])
  output_close(out.z, found["embedded"])
  output_close(losses(out), found["loss"])
  gradient_close(to_params["codebooks"], found["to_codebooks"])
  # The mean over two stages and all channels of (z - entry)^2 has this gradient in each stage.
  halves = np.split(found["z"], 2, axis=-1)
  first = [found["codebooks"][g, 0][found["codes"][..., g]] for g in range(2)]
  second = [found["codebooks"][g, 1][found["codes"][..., 2 + g]] for g in range(2)]
  scale = 0.25 * 2 / (2 * found["z"].size)
  after_one = np.concatenate([z - e for z, e in zip(halves, first, strict=True)], axis=-1)
  after_two = after_one - np.concatenate(second, axis=-1)
  gradient_close(found["pull"], scale * after_one)
  gradient_close(to_z, scale * (after_one + after_two))


@pytest.mark.slow
def test_multiscale_as_var():
  found = recorded("multiscale")
  module = B.MultiScaleVQ(16, 4, (1, 2, 3, 4, 5))
  losses = lambda out: 0.25 * out.loss + out.codebook_loss  # noqa: E731
  params = {name: found[name] for name in ("codebook", "kernels", "biases")}
  out, (to_z, to_params) = trained(module, losses)(params, found["z"], found["weight"])
  equal(out.codes[..., 0], found["codes"])
  output_close(out.z, found["z_q"])
  output_close(losses(out), found["loss"])
  gradient_close(to_z, found["to_z"])
  for name in params:
    gradient_close(to_params[name], found[f"to_{name}"])
  coarse = module.apply({"params": params}, out.codes[:, :14], method="decode")
  output_close(coarse, found["after_three"])
  assert F.which_convolution(10, 4) == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
  with pytest.raises(ValueError, match="must end after a scale"):
    module.apply({"params": params}, out.codes[:, :15], method="decode")


def test_fsq_as_vector_quantize_pytorch():
  found = recorded("fsq")
  ends = {
    "into": {"kernel": found["in"], "bias": found["in_b"]},
    "back": {"kernel": found["out"], "bias": found["out_b"]},
  }
  step = trained(B.FSQ((8, 5, 5, 4), 6), only_output)
  out, (to_z, to_params) = step({"ends": ends}, found["z"], found["weight"])
  equal(out.codes[..., 0], found["codes"])
  output_close(out.z, found["z_q"])
  gradient_close(to_z, found["to_z"])
  for name, key in (("into", "in"), ("back", "out")):
    gradient_close(to_params["ends"][name]["kernel"], found[f"to_{key}"])
    gradient_close(to_params["ends"][name]["bias"], found[f"to_{key}_b"])


@pytest.mark.slow
def test_residual_fsq_as_vector_quantize_pytorch_but_for_the_scale_of_the_gradient():
  """There each stage within whose reach z lies passes the gradient again; ours passes it once."""
  found = recorded("residual_fsq")
  levels = (5, 4, 3)
  out, (to_z, _) = trained(B.ResidualFSQ(3, levels, 3), only_output)(
    {}, found["z"], found["weight"]
  )
  equal(out.codes, found["codes"])
  output_close(out.z, found["z_q"])
  reach = 1 + 1 / (np.float32(levels) - 1)
  slope = 1 - np.tanh(found["z"] / reach) ** 2
  gradient_close(to_z, found["weight"] * slope)
  times = found["to_z"] / (found["weight"] * slope)
  np.testing.assert_allclose(times, np.round(times), atol=1e-3)
  assert set(np.round(times).ravel()) == {1, 2, 3}


def test_lfq_as_vector_quantize_pytorch():
  """Its logarithms stop at 1e-5, which these latents are too near to zero to notice."""
  found = recorded("lfq")
  module = B.LFQ(5, 5, inverse_temperature=1.0)
  losses = lambda out: 0.1 * out.entropy_loss + 0.25 * out.loss  # noqa: E731
  step = trained(module, losses)
  mask = np.ones_like(found["mask"])
  out, (to_z, _) = step({}, found["z"], found["weight"], mask)
  equal(out.codes[..., 0], found["codes"])
  output_close(out.z, found["z_q"])
  output_close(losses(out), found["loss"])
  gradient_close(to_z, found["to_z"])
  of_row, of_batch = F.sign_entropies(found["z"], mask, 1.0, 1.0)
  output_close(of_row, found["of_row"])
  output_close(of_batch, found["of_batch"])
  # With a mask it averages no probabilities: its two entropies are one, and cancel.
  found, mask = recorded("lfq_masked"), found["mask"]
  out, _ = step({}, found["z"], found["weight"], mask)
  equal(found["of_batch"], found["of_row"])
  output_close(0.25 * out.loss, found["loss"])
  of_row, of_batch = F.sign_entropies(found["z"], mask, 1.0, 1.0)
  output_close(of_row, found["of_row"])
  assert of_batch > 1.5 * of_row


@pytest.mark.slow
def test_residual_lfq_as_vector_quantize_pytorch_but_for_the_scale_of_the_gradient():
  found = recorded("residual_lfq")
  module = B.ResidualLFQ(3, 5, 5)
  step = trained(module, only_loss)
  out, (to_z, _) = step({}, found["z"], found["weight"], pull=0.0)
  equal(out.codes, found["codes"])
  output_close(out.z, found["z_q"])
  output_close(out.loss, found["loss"].mean())
  equal(to_z, found["weight"])
  gradient_close(found["through"], 3 * found["weight"])
  _, (to_z, _) = step({}, found["z"], 0 * found["weight"])
  gradient_close(3 * np.asarray(to_z), found["pull"])


def test_bsq_as_its_authors_but_for_the_scale_of_the_gradient():
  """There the scale of a corner comes after the straight-through and shrinks the gradient.

  Recorded with entropies of groups; its "analytical" mode has the single bits' for the batch.
  """
  found = recorded("bsq")
  module = B.BSQ(6, 6)
  # There the commitment is a sum over bits, ours a mean.
  losses = lambda out: 0.1 * out.entropy_loss + 0.25 * 6 * out.loss  # noqa: E731
  step = trained(module, losses)
  out, (to_z, _) = step({}, found["z"], found["weight"], pull=0.0)
  equal(out.codes[..., 0], found["codes"])
  output_close(out.z, found["z_q"])
  output_close(losses(out), found["loss"])
  gradient_close(np.asarray(to_z) * 6**-0.5, found["through"])
  _, (to_z, _) = step({}, found["z"], 0 * found["weight"])
  gradient_close(to_z, found["pull"])


def test_latent_quantization_as_its_authors():
  found = recorded("latent")
  losses = lambda out: 0.01 * (out.loss + out.codebook_loss)  # noqa: E731
  step = trained(B.LatentQuantizer(5, 6), losses)
  out, (to_z, to_params) = step({"values": found["values"]}, found["z"], 0 * found["z"])
  equal(out.codes, found["codes"])
  equal(out.z, found["z_q"])
  output_close(losses(out), found["loss"])
  np.testing.assert_allclose(to_z, found["to_z"], atol=1e-7)
  np.testing.assert_allclose(to_params["values"], found["to_values"], atol=1e-7)


def test_codebook_transfer_as_vqgan_lc():
  found = recorded("transfer")
  losses = lambda out: out.loss + 0.33 * out.codebook_loss  # noqa: E731
  projection = {"kernel": found["kernel"], "bias": found["bias"]}
  params = {"frozen": found["source"], "projection": projection}
  step = trained(B.TransferVQ(40, 12, 4), losses)
  out, (to_z, to_params) = step(params, found["z"], found["weight"])
  equal(out.codes[..., 0], found["codes"])
  output_close(out.z, found["z_q"])
  output_close(losses(out), found["loss"])
  gradient_close(to_z, found["to_z"])
  gradient_close(to_params["projection"]["kernel"], found["to_kernel"])
  gradient_close(to_params["projection"]["bias"], found["to_bias"])
  assert not np.any(to_params["frozen"])


@pytest.mark.slow
def test_key_value_bottleneck_as_its_authors():
  found = recorded("key_value")
  # Heads that are the latent itself, side by side.
  projection = np.zeros((3, 12, 4), np.float32)
  for head in range(3):
    projection[head, 4 * head : 4 * head + 4] = np.eye(4)
  module = B.KeyValueBottleneck(3, 8, 4, 5, 12)
  params = {"projection": projection, "codebooks": found["keys"], "values": found["values"]}
  step = trained(module, only_output)
  ema = F.ema_state(found["keys"])
  move = jax.jit(functools.partial(F.ema_update, decay=0.95))
  for n in range(3):
    out, _ = step(params, found[f"heads{n}"].reshape(10, 12), np.zeros((10, 5), np.float32))
    equal(out.codes, found[f"codes{n}"])
    params["codebooks"], ema = move(ema, out.statistics)
  output_close(ema.counts, found["counts"])
  output_close(ema.sums, found["sums"])
  output_close(params["codebooks"], found["moved"])
  params["codebooks"], z = found["moved"], found["heads"].reshape(10, 12)

  @jax.jit
  def used_alone(params, z, used):
    codes = module.apply({"params": params}, z, used, method="encode")
    return codes, module.apply({"params": params}, codes, method="decode")

  allowed, z_q = used_alone(params, z, found["used"])
  equal(allowed, found["codes"])
  output_close(z_q, found["z_q"])
  to_values = jax.grad(
    lambda v: jnp.vdot(
      found["weight"], module.apply({"params": params | {"values": v}}, allowed, method="decode")
    )
  )(found["values"])
  gradient_close(to_values, found["to_values"])


@pytest.mark.parametrize("number", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_codebook_features_as_its_authors(number):
  """Their `aeloss`: the task's gradient to both, and the sum over features of our codebook loss."""
  found = recorded("features")
  params = {
    "codebook": found["codebook"],
    "norm": {"scale": found["scale"], "bias": found["bias"]},
  }
  module = B.CodebookFeatures(16, 6, number)
  step = trained(module, lambda out: 6 * out.codebook_loss)
  out, (to_z, to_params) = step(params, found["z"], found["weight"])
  equal(out.codes, found[f"codes{number}"])
  output_close(out.z, found[f"z_q{number}"])
  gradient_close(to_z, found[f"to_z{number}"])
  gradient_close(to_params["codebook"], found[f"to_codebook{number}"])
  gradient_close(to_params["norm"]["scale"], found[f"to_scale{number}"])


def test_codes_are_switched_off_and_forced():
  found = recorded("features")
  params = {
    "codebook": found["codebook"],
    "norm": {"scale": found["scale"], "bias": found["bias"]},
  }
  module = B.CodebookFeatures(16, 6, 4)
  off = np.isin(np.arange(16), found["disabled"])
  encode = functools.partial(module.apply, {"params": params}, found["z"], method="encode")
  equal(encode(disabled=off), found["codes_disabled"])
  forced = np.full_like(found["codes4"], -1)
  forced[0, 2, 1] = 5
  codes = np.array(encode(forced=forced))
  assert codes[0, 2, 1] == 5
  codes[0, 2, 1] = found["codes4"][0, 2, 1]
  equal(codes, found["codes4"])
  with pytest.raises(ValueError, match=r"forced must have the codes' shape \("):
    encode(forced=forced[:1])
  with pytest.raises(ValueError, match=r"disabled \(15,\) must be \[16\]"):
    encode(disabled=off[1:])


def test_factorized_as_descript_audio_codec():
  """Codes, losses and every gradient in training, two rows leaving stages out."""
  found = recorded("dac", "codecs")
  module = B.FactorizedRVQ(3, 8, 6, codebook_features=4)
  names = ("in_kernel", "in_bias", "codebooks", "out_kernel", "out_bias")

  @jax.jit
  def step(params, z):
    def loss(params, z):
      out = module.apply({"params": params}, z, num_active=found["num_active"])
      pull = 0.25 * out.loss + out.codebook_loss
      return jnp.vdot(found["weight"], out.z) + pull, out

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, z)

  (to_params, to_z), out = step({name: found[name] for name in names}, found["z"])
  active = np.arange(3) < found["num_active"][:, None, None]
  # A stage that a row leaves out has no code here; there it has one that nothing uses.
  equal(out.codes, np.where(active, found["codes"], -1))
  output_close(out.z, found["z_q"])
  output_close(out.loss, found["commitment"])
  output_close(out.codebook_loss, found["codebook"])
  gradient_close(to_z, found["to_z"])
  for name in names:
    gradient_close(to_params[name], found[f"to_{name}"])


def test_split_as_moshi():
  """Three updates of the averages, every gradient, and a batch without the last codebook."""
  found = recorded("mimi", "codecs")
  module = B.SplitRVQ(4, 8, features=5, dimension=6)
  names = ("semantic_in", "semantic_out", "acoustic_in", "acoustic_out")

  @jax.jit
  def step(params, z, weight, number):
    def loss(params, z):
      out = module.apply({"params": params}, z, num_active=number)
      return jnp.vdot(weight, out.z) + out.loss, out

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, z)

  move = jax.jit(functools.partial(F.ema_update, decay=0.8))
  codebooks = found["codebooks0"]
  ema = F.ema_state(codebooks)
  for n in range(4):
    codebooks_then = found[f"codebooks{n}"]
    output_close(codebooks, codebooks_then)
    params = {name: {"kernel": found[name]} for name in names}
    params |= {"semantic": {"codebooks": codebooks_then[:1]}}
    params |= {"acoustic": {"codebooks": codebooks_then[1:]}}
    number = found[f"num_active{n}"]
    (to_params, to_z), out = step(params, found[f"z{n}"], found[f"weight{n}"], number)
    equal(out.codes[..., :number], found[f"codes{n}"])
    assert (out.codes[..., number:] == -1).all()
    output_close(out.z, found[f"z_q{n}"])
    output_close(out.loss, found[f"loss{n}"])
    gradient_close(to_z, found[f"to_z{n}"])
    for name in names:
      gradient_close(to_params[name]["kernel"], found[f"to_{name}{n}"])
    if n < 3:
      codebooks, ema = move(ema, out.statistics)
  output_close(ema.counts, found["counts"])
  output_close(ema.sums, found["sums"])
