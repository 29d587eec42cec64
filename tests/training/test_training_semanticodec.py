"""SemantiCodec's two stages: who learns when, and what a run refuses."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from configs import semanticodec_16khz
from jaxcodec.data.sound import Sound
from jaxcodec.training import semanticodec, tasks

CONFIG = semanticodec_16khz.tiny()


def test_each_stage_moves_its_own_parts_and_codebooks_are_moved_by_none():
  init = functools.partial(semanticodec.init_state, config=CONFIG)
  shapes = jax.eval_shape(init, jax.random.key(0))
  ones = jax.tree.map(
    lambda leaf: np.ones((1,), np.float32), (shapes.params, shapes.discriminators)
  )
  moved = {}
  for second in (False, True):
    found = jax.tree_util.tree_map_with_path(
      functools.partial(semanticodec._staged, np.bool_(second)), ones
    )
    leaves = jax.tree_util.tree_leaves_with_path(found)
    moved[second] = {
      jax.tree_util.keystr(path, simple=True, separator="/") for path, x in leaves if x
    }
  assert not moved[False] & moved[True]
  still = {jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves}
  still -= moved[False] | moved[True]
  assert still == {
    "0/encoder/positions",
    "0/quantizer/centroids",
    "0/quantizer/acoustic/codebooks",
    "0/decoder/latent_scale",
  }
  parts = lambda names: {"/".join(name.split("/")[:3]) for name in names}  # noqa: E731
  assert {"0/decoder/vae", "0/decoder/vocoder"} <= parts(moved[False])
  assert any(name.startswith("0/encoder/") for name in moved[False])
  assert any(name.startswith("1/predictor/") for name in moved[False])
  assert parts(moved[True]) == {"0/decoder/unet", "0/quantizer/lstm", "0/quantizer/project"}


@pytest.mark.parametrize(
  ("change", "word"),
  [
    ({"start_step": 0}, "start_step"),
    ({"start_step": 4}, "start_step"),
    ({"kmeans_batches": 0}, "kmeans_batches"),
    ({"data": Sound(segment_seconds=1.0)}, "segment_seconds"),
    ({"data": Sound(segment_seconds=0.32, packed=True)}, "packed"),
  ],
)
def test_a_run_that_contradicts_itself_is_refused(change, word):
  with pytest.raises(ValueError, match=word):
    tasks.check(dataclasses.replace(CONFIG, **change))
