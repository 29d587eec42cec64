"""The notebooks run from top to bottom, the one that trains with fast settings."""

import json
import pathlib
import re
import tomllib

import matplotlib
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(name: str, folder, monkeypatch, **changes: str) -> dict:
  """The names that the code cells leave; `changes` are put for texts that must be there."""
  cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
  code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
  for old, new in changes.items():
    assert code.count(old) == 1
    code = code.replace(old, new)
  matplotlib.use("Agg")
  monkeypatch.chdir(folder)
  names: dict = {}
  exec(compile(code, name, "exec"), names)
  return names


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_badge_opens_the_very_notebook_in_colab(path):
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  repository = project["urls"]["Repository"].removeprefix("https://github.com/")
  first = "".join(json.loads(path.read_text())["cells"][0]["source"])
  (address,) = re.findall(r"\(https://colab\.research\.google\.com/github/(\S+)\)", first)
  assert address == f"{repository}/blob/main/notebooks/{path.name}"


@pytest.mark.slow
def test_codes_are_looked_at(tmp_path, monkeypatch):
  names = run("look_at_codes", tmp_path, monkeypatch)
  assert names["codes"].shape[2] == 12
  assert names["error_db"](12) < names["error_db"](2) < 0


@pytest.mark.slow
def test_a_codec_is_trained(tmp_path, monkeypatch):
  fast = {"NUM_STEPS = 600": "NUM_STEPS = 2", "speech_16khz.get_config()": "speech_16khz.tiny()"}
  names = run("train_a_codec", tmp_path, monkeypatch, **fast)
  assert int(names["state"].step) == 2
  assert names["codec"].name == "speech-16khz"
