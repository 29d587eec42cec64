"""A golden picture decodes to the latents that it always did."""

import json

from golden_pictures import PATH, facts


def test_a_golden_picture_holds_what_it_always_did():
  expected = json.loads(PATH.with_suffix(".json").read_text())
  assert facts(PATH.read_bytes()) == expected
