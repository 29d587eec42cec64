"""Perception of decoded signals: what is counted, what is missing, and the command."""

import json
import math

import numpy as np
import pytest
import soundfile
from PIL import Image

from jaxcodec import cli, evaluate_pictures, perception, picture_baselines
from jaxcodec.baselines import Coded, System
from jaxcodec.errors import CodecError
from jaxcodec.perception import Item
from jaxcodec.picture_baselines import CodedPicture, PictureSystem

RNG = np.random.default_rng(0)


def coarse(step: int) -> PictureSystem:
  """Rounds samples to multiples of `step`, in as many bits as that leaves."""

  def code(pixels: np.ndarray) -> CodedPicture:
    size = pixels.size * (9 - step.bit_length()) // 8
    return CodedPicture(pixels // step * step, size, 0.0, 0.0)

  return PictureSystem("coarse", step, code)


def kind(pixels: np.ndarray) -> str:
  """Whether there are samples that no multiple of eight is."""
  return "fine" if (pixels % 8).any() else "plain"


def items() -> list[Item]:
  plain = [Item(f"plain {n}", np.full((4, 6, 3), 8 * n, np.uint8), "plain") for n in range(3)]
  fine = RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8)
  return [*plain, Item("fine", fine, "fine")]


def test_score_and_rate_are_over_all_items():
  found = perception.run(
    [coarse(1), coarse(4), coarse(8), coarse(128)],
    items(),
    lambda pixels, truth: float(kind(pixels) == truth),
    {"error": lambda a, b: float(np.abs(a.astype(int) - b).mean())},
  )
  assert (found.original.score, found.original.items) == (1.0, 4)
  assert [point.score for point in found.points] == [1.0, 1.0, 0.75, 0.75]
  # 72 samples of 24 pixels, 8 bits to 1 each.
  assert [point.rate for point in found.points] == [24.0, 18.0, 15.0, 3.0]
  assert found.points[0].measures == {"error": 0.0}
  assert found.points[2].low <= 0.75 <= found.points[2].high <= 1
  assert found.correlation("error") < -0.8
  assert found.rate_for("coarse", 1.0) == pytest.approx(18)
  # Halfway from 0.75 to 1, halfway between the logarithms of 15 and 18.
  assert found.rate_for("coarse", 0.875) == pytest.approx(math.sqrt(15 * 18))
  assert math.isnan(found.rate_for("none", 0.5))


def test_what_fails_is_missing_and_costs_nothing():
  def broken(pixels):
    if pixels[0, 0, 0]:
      raise CodecError("it did not work")
    return CodedPicture(pixels[:2], 10, 0.0, 0.0)

  found = perception.run([PictureSystem("broken", None, broken)], items(), lambda *_: 1.0)
  assert len(found.missing) == 4
  assert found.missing[0] == ("broken", "plain 0", "came back as (2, 6, 3), was (4, 6, 3)")
  assert found.missing[1][2] == "it did not work"
  assert (found.points[0].items, math.isnan(found.points[0].score)) == (0, True)
  assert found.to_json()["points"][1]["score"] is None
  json.dumps(found.to_json(), allow_nan=False)
  with pytest.raises(ValueError, match="nothing to perceive"):
    perception.run([], [], lambda *_: 1.0)


def test_sounds_are_perceived_too():
  def code(wave):
    return Coded(np.round(wave, 1), len(wave) // 2, 0.0, 0.0)

  system = System("rounded", 8000, 16_000, 1, code)
  wave = RNG.uniform(-1, 1, (1000, 1)).astype(np.float32)
  found = perception.run(
    [system], [Item("a", wave, None)], lambda x, _: float(np.abs(x).max() <= 1)
  )
  assert (found.points[0].setting, found.points[0].rate, found.points[0].score) == (8.0, 4.0, 1.0)


def test_a_model_is_named_by_its_module():
  assert perception.model("test_perception:kind") is kind or callable(
    perception.model("test_perception:kind")
  )
  for wrong in ("test_perception", "test_perception:none", "no_such_module:kind", "math:pi"):
    with pytest.raises(CodecError, match="names no function"):
      perception.model(wrong)


def loud(wave: np.ndarray, sample_rate: int) -> str:
  """A model of sound for the command."""
  assert sample_rate == 16_000
  return "loud" if np.abs(wave).max() > 0.1 else "quiet"


def bright(pixels: np.ndarray) -> str:
  """A model of pictures for the command."""
  return "bright" if pixels.mean() > 127 else "dark"


def test_the_command_scores_pictures_by_their_folders(tmp_path, capsys, monkeypatch):
  baselines = [system for system in picture_baselines.find()[0] if system.name == "jpeg"][:2]
  monkeypatch.setattr(picture_baselines, "find", lambda: (baselines, []))
  # Compiling a codec takes longer than all else.
  monkeypatch.setattr(evaluate_pictures, "codec_systems", lambda *_: [])
  for name, value in (("dark", 30), ("bright", 200)):
    (tmp_path / name).mkdir()
    Image.new("RGB", (16, 16), (value, value, value)).save(tmp_path / name / "a.png")
  call = ["evaluate", str(tmp_path), "--quality", "50", "--json", "-"]
  assert cli.main([*call, "--perception", "test_perception:bright"]) == 0
  out = capsys.readouterr()
  points = json.loads(out.out)["points"]
  assert [point["system"] for point in points] == ["original", "jpeg", "jpeg"]
  assert [point["score"] for point in points] == [1.0] * 3
  assert points[1]["rate"] > 5
  assert "of the original's score 95% at" in out.err
  assert cli.main([*call, "--perception", "test_perception:nothing"]) == 1
  assert (
    cli.main([*call, "--perception", "test_perception:bright", "--plot", str(tmp_path / "a.png")])
    == 2
  )


@pytest.mark.slow
def test_the_command_scores_sounds_by_their_folders(tmp_path, capsys):
  for name, level in (("loud", 0.5), ("quiet", 0.01)):
    (tmp_path / name).mkdir()
    soundfile.write(tmp_path / name / "a.wav", level * np.sin(np.arange(8000) / 8), 16_000)
  call = ["evaluate", str(tmp_path), "--bitrate", "6", "--baselines", "none", "--json", "-"]
  assert cli.main([*call, "--perception", "test_perception:loud"]) == 0
  (rate,) = json.loads(capsys.readouterr().out)["rates"]
  assert (rate["sample_rate"], [point["score"] for point in rate["points"]]) == (16_000, [1.0, 1.0])
