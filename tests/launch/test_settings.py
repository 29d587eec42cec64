"""Fields from the command line: checked by type, wrong ones in one line and exit status 2."""

import importlib
import pathlib

import pytest

from launch import settings, train

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPEECH = ROOT / "configs" / "speech_16khz.py"
CONFIGS = sorted(p for p in (ROOT / "configs").glob("*.py") if "prior" not in p.name)


@pytest.fixture(scope="module")
def config():
  return settings.load(SPEECH)


def test_fields_of_every_kind_are_set(config):
  new = settings.changed(
    config,
    [
      "batch_size=16",
      "optimizer.rate.peak=1e-4",
      "data.sources=a.tar,b.tar",
      "data.gain_db=-3,3",
      "codec.net.strides=8,4",
      "codec.num_codebooks=4",
      "losses.adaptive=true",
      "codec.net.pad_mode=reflect",
      "quantization.active_choices=",
    ],
  )
  assert new.batch_size == 16
  assert new.optimizer.rate.peak == 1e-4
  assert new.data.sources == ("a.tar", "b.tar")
  assert new.data.gain_db == (-3.0, 3.0)
  assert new.codec.net.strides == (8, 4)
  assert new.codec.num_codebooks == 4
  assert new.losses.adaptive is True
  assert new.codec.net.pad_mode == "reflect"
  assert new.quantization.active_choices == ()
  assert config.batch_size == 12


@pytest.mark.parametrize(
  ("setting", "reason"),
  [
    ("batch_sise=3", "Train has no field batch_sise; did you mean batch_size?"),
    ("batch_size=many", "a whole number needed"),
    ("batch_size=1.5", "a whole number needed"),
    ("optimizer.rate.peak=nan", "a number needed"),
    ("optimizer.rate.peak.more=1", "what stands before .more has no fields"),
    ("losses.adaptive=maybe", "true or false needed"),
    ("codec.net.pad_mode=odd", "one of reflect, replicate, zero needed"),
    ("data.gain_db=1", "2 values needed, 1 given"),
    ("codec.net=x", "can be set in the file alone"),
    ("batch_size", "give FIELD=VALUE"),
  ],
)
def test_wrong_settings_are_said_in_one_line(config, setting, reason):
  with pytest.raises(ValueError) as error:
    settings.changed(config, [setting])
  assert reason in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_holds_together(path):
  from jaxcodec.training import tasks

  for function in ("get_config", "tiny"):
    tasks.check(settings.load(path, function))
  # The command in the file is one that works.
  assert f"python -m launch.train --config configs/{path.name}" in path.read_text()


def run(capsys, workdir, *more: str) -> tuple[int, str]:
  status = train.main(["--config", str(SPEECH), "--workdir", str(workdir), *more])
  return status, capsys.readouterr().err


def test_wrong_calls_end_before_anything_is_compiled(capsys, tmp_path, monkeypatch):
  from jaxcodec.training import loop

  def compile_nothing(*_, **__):
    raise AssertionError("compiled")

  monkeypatch.setattr(loop, "_initial", compile_nothing)
  sounds = tmp_path / "empty"
  sounds.mkdir()
  data = ("--set", f"data.sources={sounds}")
  cases = [
    ((), 2, "data.sources is empty"),
    (data, 2, "holds no files of the kinds"),
    (("--set", "mesh.data=3", *data), 2, "does not fit 8 devices"),
    (("--set", "batch_size=12", *data), 2, "batch_size=12 is no multiple"),
    (("--set", "batch_size=8", "--set", "losses.mel=0", "--set", "losses.wave=0"), 2, "no loss"),
    (("--set", "batch_size=8", "--set", "losses.features=1"), 2, "need an adversary"),
    (("--set", "nothing=1"), 2, "Train has no field nothing"),
    (("--steps",), 2, "unrecognized arguments: --steps"),
  ]
  for more, wanted, reason in cases:
    eight = () if "batch_size" in " ".join(more) else ("--set", "batch_size=16")
    status, error = run(capsys, tmp_path / "run", *eight, *more)
    assert status == wanted, (more, error)
    assert reason in error
    assert error.count("\n") == 1, error
  assert train.main(["--config", "nowhere.py", "--workdir", "x"]) == 2


@pytest.mark.parametrize(
  "command",
  [
    "compile_check",
    "evaluate",
    "make_samples",
    "prepare_data",
    "starters",
    "tokenize",
    "train",
    "train_prior",
  ],
)
def test_a_wrong_call_is_told_in_one_line(command, capsys):
  assert importlib.import_module(f"launch.{command}").main(["--nothing"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"launch.{command}: ")
  assert line.endswith(f"(see launch.{command} --help)")
