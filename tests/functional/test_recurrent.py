import numpy as np
import pytest

from jaxcodec import functional as F


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weights(d, h):
  return normal(d, 4 * h, seed=1), normal(h, 4 * h, seed=2), normal(4 * h, seed=3)


def lstm_by_definition(x, input_kernel, recurrent_kernel, bias, h, c):
  def sigmoid(v):
    return 1 / (1 + np.exp(-v))

  outputs = []
  for t in range(x.shape[1]):
    i, f, g, o = np.split(x[:, t] @ input_kernel + h @ recurrent_kernel + bias, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    outputs.append(h)
  return np.stack(outputs, axis=1), h, c


@pytest.mark.parametrize(("rows", "steps", "d", "h"), [(2, 1, 1, 1), (2, 9, 3, 5), (1, 130, 3, 5)])
@pytest.mark.parametrize("starts", [False, True])
def test_lstm_is_its_definition(rows, steps, d, h, starts):
  x = normal(rows, steps, d)
  state = (normal(rows, h, seed=4), normal(rows, h, seed=5))
  before = (np.zeros((rows, h)), np.zeros((rows, h))) if starts else state
  exact = [np.asarray(a, np.float64) for a in (x, *weights(d, h), *before)]
  want, last_h, last_c = lstm_by_definition(*exact)
  got, after = F.lstm(x, *weights(d, h), None if starts else state)
  # Float32 through the steps' gates.
  np.testing.assert_allclose(got, want, atol=1e-5)
  np.testing.assert_allclose(after[0], last_h, atol=1e-5)
  np.testing.assert_allclose(after[1], last_c, atol=1e-5)


def test_rows_are_read_backwards_from_their_own_ends():
  x, ways = normal(3, 5, 3), (weights(3, 5), weights(3, 5))
  together = F.bidirectional_lstm(x, *ways, np.array([5, 1, 3]))
  for row, got, length in zip(x, together, (5, 1, 3), strict=True):
    alone = F.bidirectional_lstm(row[None, :length], *ways)[0]
    np.testing.assert_allclose(got[:length], alone, atol=1e-6)
    back = F.lstm(row[None, :length][:, ::-1], *ways[1])[0][0, ::-1]
    np.testing.assert_allclose(alone[:, 5:], back, atol=1e-6)


def test_lstm_in_parts_equals_the_whole():
  x = normal(2, 9, 3)
  whole, end = F.lstm(x, *weights(3, 5))
  first, state = F.lstm(x[:, :4], *weights(3, 5))
  second, state = F.lstm(x[:, 4:], *weights(3, 5), state)
  # One product with the input kernel per part, whose blocking depends on its size.
  np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, atol=1e-6)
  np.testing.assert_allclose(state[0], end[0], atol=1e-6)
