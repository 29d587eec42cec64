"""What is recorded of vector-quantize-pytorch is what the package gives."""

import importlib.util
import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch comes with the parity extra")
pytest.importorskip("vector_quantize_pytorch", reason="it comes with the parity extra")

pytestmark = pytest.mark.parity
RECORDED = pathlib.Path(__file__).parents[1] / "recorded"


def test_the_recorded_codebooks_are_those_of_the_package():
  spec = importlib.util.spec_from_file_location("record", RECORDED / "make_bottlenecks.py")
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  torch.manual_seed(0)
  with np.load(RECORDED / "bottlenecks.npz") as file:
    for case, arrays in module.vector_cases().items():
      for name, array in arrays.items():
        np.testing.assert_allclose(
          file[f"{case}/{name}"], array, atol=1e-6, err_msg=f"{case}/{name}"
        )
