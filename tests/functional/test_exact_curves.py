"""Curves of whole numbers: the real ones to half a unit, and refused where they are others."""

import numpy as np
import pytest
from scipy import special

from jaxcodec.errors import CodecError
from jaxcodec.functional import exact_curves as curves
from jaxcodec.functional.exact import LIMIT, UNIT

WHOLE = np.concatenate([np.arange(-40_000.0, 40_000, 37), [-LIMIT, 0, LIMIT]])
X = WHOLE / UNIT


@pytest.mark.parametrize(
  ("curve", "x", "wanted"),
  [
    (curves.half_tanh, WHOLE, UNIT * np.tanh(X) / 2),
    (curves.gelu, WHOLE, UNIT * X * special.ndtr(X)),
    (curves.sigmoid, WHOLE, UNIT * special.expit(X)),
    (curves.decay, np.abs(WHOLE), 2.0**14 * np.exp(-np.abs(X))),
  ],
)
def test_a_curve_is_the_real_one_to_half_a_unit(curve, x, wanted):
  found = curve(x)
  np.testing.assert_array_equal(found, np.rint(found))
  np.testing.assert_allclose(found, wanted, atol=0.5 + 1e-6, rtol=0)


def test_tables_of_another_arithmetic_are_refused(monkeypatch):
  monkeypatch.setattr(curves, "_CRC", 0)
  curves._tables.cache_clear()
  with pytest.raises(CodecError, match="not precise enough"):
    curves.half_tanh(WHOLE)
  monkeypatch.undo()
  curves._tables.cache_clear()
  assert curves.half_tanh(WHOLE)[-1] == UNIT / 2
