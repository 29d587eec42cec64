"""Golden pictures decode to the latents that they always did."""

import json

import pytest
from golden_pictures import FITTED, PATH, TILES, facts, fitted_facts, tile_facts


@pytest.mark.parametrize(
  ("path", "facts_of"), [(PATH, facts), (TILES, tile_facts), (FITTED, fitted_facts)]
)
def test_a_golden_picture_holds_what_it_always_did(path, facts_of):
  expected = json.loads(path.with_suffix(".json").read_text())
  assert facts_of(path.read_bytes()) == expected
