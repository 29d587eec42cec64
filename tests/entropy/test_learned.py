import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.entropy import learned, prior_model
from jaxcodec.entropy.learned import LearnedPrior
from jaxcodec.entropy.prior_model import PriorConfig
from jaxcodec.errors import CodecError
from jaxcodec.functional import whole

CONFIG = PriorConfig(
  num_codebooks=3,
  codebook_size=40,
  latent=8,
  features=16,
  layers=2,
  heads=2,
  hidden=24,
  window=16,
  depth_hidden=24,
  output=12,
)


def drawn_prior(seed=0) -> LearnedPrior:
  """Whole numbers as large as trained ones, drawn by NumPy: the same everywhere."""
  rng = np.random.default_rng(seed)

  def draw(shape, kind):
    limit, spread = (127, 40) if kind == np.int8 else (4096, 300)
    spread *= rng.normal(size=shape.shape)
    return np.clip(np.round(spread), -limit, limit).astype(kind)

  params = jax.tree.map(draw, prior_model.shapes(CONFIG), prior_model.dtypes(CONFIG))
  vectors = np.round(rng.normal(size=(3, 40, 8)) * 100).astype(np.int16)
  return LearnedPrior(config=CONFIG, params=params, vectors=vectors)


PRIOR = drawn_prior()


def drawn_codes(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 40, shape).astype(np.int32)


CHUNKS = [drawn_codes(2, 50, 3), drawn_codes(1, 3, 3, seed=1), drawn_codes(1, 37, 3, seed=2)]
SHAPES = [codes.shape for codes in CHUNKS]


@pytest.mark.slow
def test_chunks_of_any_length_and_batch_come_back():
  payloads = learned.encode(PRIOR, CHUNKS)
  for codes, found in zip(CHUNKS, learned.decode(PRIOR, payloads, SHAPES), strict=True):
    np.testing.assert_array_equal(found, codes)


def test_payloads_are_these_on_every_machine():
  payloads = learned.encode(PRIOR, CHUNKS)
  found = hashlib.sha256(b"".join(payloads)).hexdigest()
  assert found == "f71650672ef52a075435fce1a4a759b66295281b57218437cd50b2e9f4cbae6e"
  assert learned.digest(PRIOR).hex() == "28bec72c7bf3547bf346ab0d622f0b7e"


def test_a_chunk_alone_equals_one_among_others():
  together = learned.encode(PRIOR, CHUNKS)
  assert [learned.encode(PRIOR, [codes])[0] for codes in CHUNKS] == together
  for payload, codes in zip(together, CHUNKS, strict=True):
    np.testing.assert_array_equal(learned.decode(PRIOR, [payload], [codes.shape])[0], codes)


def test_fewer_codebooks_come_back():
  codes = CHUNKS[0][..., :2]
  payload = learned.encode(PRIOR, [codes])
  np.testing.assert_array_equal(learned.decode(PRIOR, payload, [codes.shape])[0], codes)


def network(codes, noise=None):
  """Frequencies [F, Q, K] of codes [F, Q], all frames at once."""
  params = prior_model.as_float(PRIOR.params)
  vectors = jnp.asarray(PRIOR.vectors, jnp.float32)
  latents = jnp.cumsum(vectors[jnp.arange(3), codes], axis=1)[None]
  inputs = prior_model.frame_inputs(latents[:, :, 0], latents[:, :, 1], latents[:, :, -1])
  h = prior_model.context(params, inputs, 3, CONFIG, noise)
  before = jnp.concatenate([jnp.zeros_like(latents[:, :, :1]), latents[:, :, :-1]], axis=2)
  logits = [
    prior_model.logits(prior_model.of_codebook(params["depth"], q), h, before[:, :, q], noise)
    for q in range(3)
  ]
  return prior_model.frequencies(jnp.stack(logits, axis=2))[0]


@pytest.mark.slow
def test_a_thousand_trials_of_noise_in_each_product_change_no_frequency():
  codes = jnp.asarray(CHUNKS[0][0, :20])

  def trial(key):
    count = iter(range(1000))
    return network(
      codes, lambda shape: 1e-4 * jax.random.normal(jax.random.fold_in(key, next(count)), shape)
    )

  expected = jax.jit(network)(codes)
  keys = jax.random.split(jax.random.key(0), 1000)
  same = jax.jit(
    lambda keys: jax.lax.map(lambda k: (trial(k) == expected).all(), keys, batch_size=50)
  )
  assert same(keys).all()
  # The noise is there: without the rounding it reaches the products.
  assert whole.matmul(jnp.ones((1, 1)), jnp.ones((1, 1)), lambda shape: jnp.full(shape, 0.6)) == 2


def test_frequencies_are_positive_add_up_and_are_close():
  rng = np.random.default_rng(0)
  rows = [np.zeros(2048), 9000 * np.eye(2048)[5], np.arange(2048) - 1024, np.arange(2048) // 4]
  # A likeliest entry, some at a share of just 2^-16, the rest below it: all of S is short of them.
  edge = np.where(np.arange(2048) < 1024, -16 * 32 + 32, -9000)
  rows += [np.append(edge[1:], 0), np.append(edge[1:] + 1, 0)]
  rows += [rng.normal(size=2048) * scale for scale in (3, 30, 300, 3000)]
  logits = np.round(np.stack(rows))
  freq = np.asarray(prior_model.frequencies(jnp.asarray(logits, jnp.float32))).astype(np.int64)
  assert (freq >= 1).all()
  assert (freq.sum(axis=1) == 1 << 16).all()
  exact = np.exp2((logits - logits.max(axis=1, keepdims=True)) / 32)
  exact /= exact.sum(axis=1, keepdims=True)
  # A count for what is too rare, one of what is left over, the error of the power, and S.
  np.testing.assert_allclose(freq / 65536, exact, atol=2 / 65536, rtol=0.05)


def test_find_is_where_the_slot_lies():
  rng = np.random.default_rng(0)
  freq = rng.integers(1, 90, (500, 40)).astype(np.uint32)
  slot = (rng.random(500) * freq.sum(axis=1)).astype(np.uint32)
  ends = np.cumsum(freq, axis=1)
  code = (ends <= slot[:, None]).sum(axis=1)
  found = jax.jit(learned.find)(freq, slot)
  every = np.arange(500)
  for got, want in zip(
    found, (code, ends[every, code] - freq[every, code], freq[every, code]), strict=True
  ):
    np.testing.assert_array_equal(got, want)


def test_damaged_payloads_are_refused_or_decode_in_range():
  payload = learned.encode(PRIOR, CHUNKS[:1])[0]
  rng = np.random.default_rng(0)
  damaged = [bytes(payload[:8]) + rng.bytes(len(payload) - 8) for _ in range(8)]
  fine = []
  for data in damaged:
    try:
      learned.check_payload(data, SHAPES[0])
      fine.append(data)
    except CodecError:
      pass
  assert fine
  assert all(x is None for x in learned.decode(PRIOR, fine, [SHAPES[0]] * len(fine)))
  for data in (b"", payload[:11], payload[:-1], payload + bytes(400), b"\xff" * len(payload)):
    with pytest.raises(CodecError, match="stream"):
      learned.check_payload(data, SHAPES[0])


def test_wrong_calls_are_refused():
  with pytest.raises(ValueError, match="outside its codebook"):
    learned.encode(PRIOR, [CHUNKS[0] + 1])
  with pytest.raises(ValueError, match="does not code chunks"):
    learned.encode(PRIOR, [np.zeros((1, learned.MAX_FRAMES + 1, 3), np.int32)])
  with pytest.raises(ValueError, match="does not code chunks"):
    learned.decode(PRIOR, [b""], [(1, 10, 4)])
  with pytest.raises(ValueError, match="add up exactly"):
    PriorConfig(num_codebooks=2, codebook_size=4, latent=4, hidden=2000)
