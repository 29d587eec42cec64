"""What holds of every bottleneck."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from zoo import CASES, latents, outcome, variables

from pallas_kernels import nearest_code

# Near relatives of others; they take seconds each to compile.
RELATIVES = {"vq, rotated", "cosine", "transfer", "transfer, hidden", "residual, shared", "product"}
RELATIVES |= {"masked channels", "split", "fsq, bare", "residual lfq", "bsq", "entropy", "latent"}
RELATIVES |= {"factorised", "multi-scale", "residual fsq", "key-value"}
every = pytest.mark.parametrize(
  "name",
  [pytest.param(name, marks=[pytest.mark.slow] * (name in RELATIVES)) for name in CASES],
)
# Rows that can be left out; of a picture they are whole pictures.
LEFT_OUT = 1


def bits(x):
  return np.asarray(x).view(np.int32)


def assert_same(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)


def mask_of(case):
  mask = np.ones(case.z[:-1], bool)
  if case.is_picture:
    mask[LEFT_OUT] = False
  else:
    mask[:, 3:] = False
    mask[0, 1] = False
  return mask


@every
def test_decode_of_encode_has_the_bits_of_training(name):
  case = CASES[name]

  @settings(max_examples=8, deadline=None)
  @given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.0, 0.1, 1.0, 30.0]))
  def check(seed, scale):
    z = np.float32(scale) * latents(case, seed)
    found = outcome(name, z)
    assert found.codes.dtype == jnp.int32
    np.testing.assert_array_equal(found.out.codes, found.codes)
    np.testing.assert_array_equal(bits(found.decoded), bits(found.out.z))
    sizes = case.module.codebook_sizes
    assert found.codes.shape[-1] == len(sizes)
    assert (np.asarray(found.codes) >= 0).all()
    assert (np.asarray(found.codes) < np.asarray(sizes)).all()
    if case.keeps_latents:
      assert found.out.z.shape == z.shape

  check()


@every
def test_rows_that_do_not_count_change_nothing_else(name):
  """Whatever stands in them, NaN and infinity too: same outputs, losses, statistics, gradients."""
  case = CASES[name]
  z, mask = latents(case), mask_of(case)
  want = outcome(name, z, mask)

  @settings(max_examples=6, deadline=None)
  @given(seed=st.integers(0, 2**31), filler=st.sampled_from([0.0, 1e30, np.nan, np.inf, -np.inf]))
  def check(seed, filler):
    other = np.where(mask[..., None], z, latents(case, seed) + np.float32(filler))
    got = outcome(name, other, mask)
    assert_same(got[2:], want[2:])
    # A row that is not finite counts as one that is masked.
    if not np.isfinite(filler):
      assert_same(outcome(name, other)[2:], want[2:])
      assert (np.asarray(got.codes) >= 0).all()
      assert (np.asarray(got.codes) < np.asarray(case.module.codebook_sizes)).all()

  check()
  assert not np.any(np.asarray(want.to_z)[~mask])
  left_out = LEFT_OUT if case.is_picture else ~mask
  assert (np.asarray(want.out.codes)[left_out] == -1).all()
  assert not np.any(np.asarray(want.out.z)[left_out])


@every
def test_metrics_tell_the_health_of_each_stage(name):
  case = CASES[name]
  out = outcome(name, latents(case)).out
  codes = np.asarray(out.codes)
  stages = codes.reshape(-1, codes.shape[-1]).T
  sizes = case.module.codebook_sizes
  if name == "features":  # Its places share one codebook.
    stages, sizes = [codes.reshape(-1)], sizes[:1]
  found = {"codebook_use": [], "perplexity": [], "dead_codes": []}
  for stage, size in zip(stages, sizes, strict=True):
    counts = np.bincount(stage, minlength=size)
    share = counts[counts > 0] / counts.sum()
    found["codebook_use"].append(np.mean(counts > 0))
    found["perplexity"].append(np.exp(-np.sum(share * np.log(share))))
    found["dead_codes"].append(np.sum(counts == 0))
  for metric, values in found.items():
    np.testing.assert_allclose(out.metrics[metric], np.mean(values), rtol=1e-5)
    each = [out.metrics[f"{metric}/{stage}"] for stage in range(len(values))]
    np.testing.assert_allclose(each, values, rtol=1e-5)


@every
def test_the_output_passes_its_gradient_on_and_no_state_is_mutable(name):
  case = CASES[name]
  found = outcome(name, latents(case))
  for leaf in jax.tree.leaves((found.to_z, found.to_params)):
    assert np.isfinite(leaf).all()
  assert np.any(found.to_z) == case.keeps_latents
  example = jax.ShapeDtypeStruct(case.z, np.float32)
  shapes = jax.eval_shape(case.module.init, jax.random.key(0), example)
  assert set(shapes) <= {"params"}


@every
def test_wrong_calls_raise_value_errors_that_name_the_shapes(name):
  case = CASES[name]
  z = latents(case)

  def refuses(match, *args, method="__call__"):
    with pytest.raises(ValueError, match=match):
      jax.eval_shape(lambda: case.module.apply(variables(name), *args, method=method))

  for wrong in (z[..., :-1], np.float32(1)):
    refuses(r"\(.*\)", wrong)
    refuses(r"\(.*\)", wrong, method="encode")
  refuses(r"floats, got int32 \(", z.astype(np.int32))
  refuses(r"mask must be bool \(", z, np.ones(z.shape[:-2], bool))
  refuses(r"mask must be bool \(", z, np.ones(z.shape[:-1], np.float32))
  sizes = np.asarray(case.module.codebook_sizes, np.int32)
  codes = np.zeros((2, 1, len(sizes)), np.int32)
  refuses(r"codes \(.* hold \d+ to \d+, codebooks have", codes + sizes, method="decode")
  refuses(r"codes \(.* hold -2", codes - 2, method="decode")
  refuses(r"integers, got float32 \(", codes.astype(np.float32), method="decode")
  refuses(r"codes must be .*\(", np.concatenate([codes, codes], axis=-1), method="decode")


@pytest.mark.slow
@every
def test_the_statistics_and_losses_are_those_of_the_rows_that_count_alone(name):
  case = CASES[name]
  z, mask = latents(case), mask_of(case)
  alone = outcome(name, np.delete(z, LEFT_OUT, axis=0) if case.is_picture else z[mask]).out
  out = outcome(name, z, mask).out
  out = out if out.bits is None else out._replace(bits=out.bits[mask])
  for got, want in zip(out[2:], alone[2:], strict=True):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), got, want)


@pytest.mark.slow
@every
def test_bfloat16_latents_are_decided_in_float32(name):
  case = CASES[name]
  z = latents(case).astype(jnp.bfloat16)
  narrow, wide = outcome(name, z).out, outcome(name, z.astype(np.float32)).out
  assert narrow.z.dtype == narrow.loss.dtype == jnp.float32
  assert_same(narrow, wide)


@pytest.mark.slow
@every
def test_an_empty_batch_gives_zeros_and_no_nan(name):
  case = CASES[name]
  found = outcome(name, np.zeros((0, *case.z[1:]), np.float32))
  assert found.codes.shape[0] == found.out.z.shape[0] == 0
  for leaf in jax.tree.leaves((found.out[2:], found.to_params)):
    assert np.isfinite(leaf).all()
  assert found.out.loss == 0


@pytest.mark.slow
@every
def test_vmap_and_scan_give_what_single_calls_give(name):
  """Each part of the batch on its own, as vmap and scan see it."""
  case = CASES[name]
  z = latents(case)

  def quantize(z):
    out = case.module.apply(variables(name), z)
    return out.z, out.codes

  @jax.jit
  def both(parts):
    scanned = jax.lax.scan(lambda carry, part: (carry, quantize(part)), 0, parts)[1]
    return jax.vmap(quantize)(parts), scanned

  whole = outcome(name, z).out
  for z_q, codes in both(z[:, None] if case.is_picture else z):
    np.testing.assert_allclose(np.asarray(z_q).reshape(whole.z.shape), whole.z, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(codes).reshape(whole.codes.shape), whole.codes)


@pytest.mark.parametrize(
  "build",
  [
    lambda b: b.VQ(0, 4),
    lambda b: b.CosineVQ(8, 0),
    lambda b: b.SimVQ(0, 4),
    lambda b: b.TransferVQ(8, 0, 4),
    lambda b: b.ResidualVQ(0, 8, 4),
    lambda b: b.ResidualVQ(2, 8, 4, num_bands=3),
    lambda b: b.GroupResidualVQ(3, 1, 8, 4),
    lambda b: b.FactorizedRVQ(1, 8, 4, 0),
    lambda b: b.SplitRVQ(1, 8, 4, 4),
    lambda b: b.MultiScaleVQ(8, 4, (2, 1)),
    lambda b: b.FSQ((2, 5), 4),
    lambda b: b.FSQ((2000,) * 3, 4),
    lambda b: b.ResidualFSQ(2, (1, 4), 4),
    lambda b: b.LFQ(0, 4),
    lambda b: b.ResidualLFQ(2, 25, 4),
    lambda b: b.BSQ(25, 4),
    lambda b: b.LatentQuantizer(0, 4),
    lambda b: b.KeyValueBottleneck(2, 0, 3, 4, 4),
    lambda b: b.CodebookFeatures(8, 4, 9),
  ],
)
def test_sizes_that_cannot_be_raise_value_errors(build):
  from jaxcodec import bottlenecks

  module = build(bottlenecks)
  z = jax.ShapeDtypeStruct((2, 2, 2, 4), np.float32)
  with pytest.raises(ValueError, match=r"\d"):
    jax.eval_shape(functools.partial(module.init, jax.random.key(0)), z)


def test_ties_go_to_the_lowest_index():
  """Entries twice, numbers between two levels, zeros between two signs."""
  from jaxcodec import functional as F

  book = np.float32([[1, 0], [0, 1], [1, 0], [0, 1]])
  z = np.float32([[3, 0], [0, 3], [1, 1]])
  np.testing.assert_array_equal(nearest_code(z, book), [0, 1, 0])
  np.testing.assert_array_equal(F.top_codes(z, book, 2)[:2], [[0, 2], [1, 3]])
  np.testing.assert_array_equal(F.nearest_keys(z[:, None], book[None])[:, 0], [0, 1, 0])
  np.testing.assert_array_equal(F.nearest_value(np.zeros((1, 1)), np.float32([[-1, 1]])), [[0]])
  np.testing.assert_array_equal(F.sign_encode(np.zeros((1, 3))), [0])
  # Of four levels in [-1, 1], zero lies between the second and the third.
  np.testing.assert_array_equal(F.residual_fsq_encode(np.zeros((1, 1)), (4,), 1), [[1]])


@pytest.mark.slow
def test_one_entry_and_one_channel():
  from jaxcodec import bottlenecks as B

  z = latents(CASES["vq"])[..., :1]
  for module in (B.VQ(1, 1), B.ResidualVQ(2, 1, 1), B.LFQ(1, 1), B.LatentQuantizer(1, 1)):

    @jax.jit
    def run(z, module=module):
      variables = module.init(jax.random.key(0), z)
      out = module.apply(variables, z)
      return out, module.apply(variables, out.codes, method="decode")

    out, decoded = run(z)
    np.testing.assert_array_equal(bits(decoded), bits(out.z))
    assert np.isfinite(out.loss)
