"""The house: who may import whom, what importing costs, and that the README says what CI runs."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Each layer may import the layers before it, and itself.
LAYERS = (
  ("pallas_kernels",),
  ("jaxcodec.errors", "jaxcodec.atomic", "jaxcodec.fingerprint"),
  ("jaxcodec.functional",),
  ("jaxcodec.layers",),
  ("jaxcodec.encoders", "jaxcodec.bottlenecks", "jaxcodec.decoders", "jaxcodec.entropy"),
  ("jaxcodec.metrics",),
  ("jaxcodec.audio", "jaxcodec.image"),
  ("jaxcodec.pieces",),
  ("jaxcodec.codec",),
  ("jaxcodec.hub",),
  ("jaxcodec.data",),
  ("jaxcodec.training",),
  ("jaxcodec.chunked",),
  ("jaxcodec.bulk",),
  ("jaxcodec.tokens",),
  ("jaxcodec.fitted_picture",),
  ("jaxcodec.picture_file",),
  ("jaxcodec.picture_target",),
  (
    "jaxcodec.bitstream",
    "jaxcodec.describe",
    "jaxcodec.live",
    "jaxcodec.report",
    "jaxcodec.baselines",
    "jaxcodec.continuation",
    "jaxcodec.picture_baselines",
  ),
  ("jaxcodec.evaluate_pictures",),
  ("jaxcodec.picture_report",),
  ("jaxcodec.demo_pictures",),
  ("jaxcodec", "jaxcodec.demo", "jaxcodec.evaluate"),
  ("jaxcodec.perception",),
  ("jaxcodec.terminal",),
  ("jaxcodec.cli_picture",),
  ("jaxcodec.cli_sound", "jaxcodec.cli_evaluate"),
  ("jaxcodec.cli",),
  ("configs",),
  ("launch",),
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def place(module: str) -> str | None:
  """The name in RANKS that holds `module`; None for somebody else's package."""
  parts = module.split(".")
  names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
  return next((name for name in names if name in RANKS), None)


def imports(path: pathlib.Path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources():
  for package in ("pallas_kernels", "jaxcodec", "configs", "launch"):
    yield from sorted((ROOT / package).rglob("*.py"))


def test_imports_point_one_way():
  wrong = []
  for path in sources():
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = place(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    for name in imports(path):
      other = place(name)
      # `from jaxcodec import X` names a package below, not the public face.
      if other not in (None, own) and RANKS[other] >= RANKS[own]:
        wrong.append(f"{own} imports {name}")
  assert wrong == []


def test_every_package_of_ours_has_a_place():
  for path in sources():
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:2] if parts[0] == "jaxcodec" and parts[1] != "__init__" else parts[:1])
    assert name in RANKS, f"{path} has no place among the layers"


def test_the_functional_core_knows_no_flax():
  for path in (ROOT / "jaxcodec" / "functional").glob("*.py"):
    assert not [name for name in imports(path) if name.split(".")[0] == "flax"]


def test_importing_brings_no_other_framework_and_no_plots():
  code = "import sys, jaxcodec; print(*sorted(name.split('.')[0] for name in sys.modules))"
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  loaded = set(out.stdout.split())
  heavy = {
    "tensorflow",
    "torch",
    "matplotlib",
    "grain",
    "tensorflow_datasets",
    "orbax",
    "av",
  }
  assert loaded & heavy == set()


def readme_blocks(language: str) -> list[str]:
  return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_ci_runs_the_commands_of_the_readme():
  script = (ROOT / ".ci" / "run").read_text()
  # CI installs with uv's pip, which is quicker, and says where the demo's page goes.
  script = script.replace("uv pip", "pip").replace("install -q", "install")
  script = script.replace(' --out "$venvs/demo"', "")
  first, second = (block.strip() for block in readme_blocks("sh")[:2])
  lines = [line.strip() for line in script.splitlines()]
  assert first in lines
  assert second in lines


@pytest.mark.slow
def test_the_example_in_the_readme_runs(tmp_path, monkeypatch):
  (example,) = readme_blocks("python")
  assert len(example.strip().splitlines()) <= 10
  monkeypatch.chdir(tmp_path)
  exec(compile(example, "README.md", "exec"), {})
  assert (tmp_path / "voice.wav").stat().st_size > 1000


@pytest.mark.slow
def test_the_wheel_holds_the_codecs_and_no_compiled_code(tmp_path):
  import zipfile

  command = [
    sys.executable,
    "-m",
    "pip",
    "wheel",
    "-q",
    "--no-deps",
    "-w",
    str(tmp_path),
    str(ROOT),
  ]
  subprocess.run(command, check=True)
  (wheel,) = tmp_path.glob("*.whl")
  assert wheel.name.endswith("-py3-none-any.whl")
  with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
  assert "jaxcodec/assets/codecs/speech-16khz/model.safetensors" in names
  assert "jaxcodec/assets/samples/voice_a.flac" in names
  assert {name.split("/")[0] for name in names if "dist-info" not in name} == {
    "jaxcodec",
    "pallas_kernels",
  }
