"""`jaxcodec evaluate` on a folder, and the programs that it measures beside."""

import dataclasses
import json
import math
import pathlib
import shutil
import sys

import numpy as np
import pytest
import soundfile

import jaxcodec
from jaxcodec import baselines, cli, evaluate, metrics
from jaxcodec.baselines import Coded, System, best_lag

RATE = 16_000


def syllables(seconds, seed=0):
  """Noise that comes and goes: `[time, 1]`."""
  rng = np.random.default_rng(seed)
  time = np.arange(int(seconds * RATE)) / RATE
  envelope = np.maximum(0, np.sin(2 * np.pi * (2 + 3 * seed) * time)) ** 2
  return (0.1 * envelope * rng.standard_normal(len(time))).astype(np.float32)[:, None]


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  """Two clips of 0.8 and 0.6 s, a broken file between them, and a file that is no sound."""
  place = tmp_path / "clips"
  (place / "more").mkdir(parents=True)
  soundfile.write(place / "a.flac", syllables(0.8), RATE)
  (place / "b.wav").write_bytes(b"RIFF and nothing more")
  soundfile.write(place / "more" / "c.wav", syllables(0.6, 1), 22_050)
  (place / "notes.txt").write_text("not a sound")
  return place


def call(capsys, *arguments) -> tuple[int, str, str]:
  status = cli.main(["evaluate", *(str(argument) for argument in arguments)])
  captured = capsys.readouterr()
  assert "Traceback" not in captured.err
  return status, captured.out, captured.err


def halver(system_rate=RATE, name="halver"):
  """A system that halves what it gets, one byte a sample, a second a file."""

  def code(x):
    return Coded(x / 2, len(x), 1.0, 2.0, np.arange(2 * 4).reshape(4, 2) % 3)

  return System(name, 8.0 * system_rate, system_rate, 1, code, (3, 4, 5))


@pytest.mark.slow
def test_a_table_and_json_over_a_folder(capsys, tmp_path, folder):
  target = tmp_path / "found.json"
  arguments = ("--bitrate", "1", "--baselines", "none", "--json", target, folder)
  status, out, err = call(capsys, *arguments)
  assert status == 0
  assert f"skipped: {folder / 'b.wav'} is not a sound file" in err
  assert "1 of 3 files skipped" in err
  found = json.loads(target.read_text())
  assert [row["file"] for row in found["skipped"]] == [str(folder / "b.wav")]
  (mean,), files = found["means"], found["files"]
  assert [row["file"] for row in files] == [str(folder / "a.flac"), str(folder / "more/c.wav")]

  # The very bytes and measures of coding one of them by hand.
  codec = jaxcodec.load("speech-16khz")
  x = soundfile.read(folder / "a.flac", dtype="float32", always_2d=True)[0]
  data = jaxcodec.compress(codec, x[None], bitrate=1000)
  y = jaxcodec.decompress(data, codec)[0]
  assert files[0]["num_bytes"] == len(data)
  assert files[0]["seconds"] == 0.8
  assert files[0]["kbps"] == pytest.approx(len(data) * 8 / 800)
  assert files[0]["si_sdr"] == pytest.approx(metrics.si_sdr(x, y), abs=1e-6)
  assert files[0]["mel_distance"] == pytest.approx(metrics.mel_distance(x, y, RATE), abs=1e-6)
  assert files[0]["stft_distance"] == pytest.approx(metrics.stft_distance(x, y), abs=1e-6)
  assert files[0]["stoi"] == pytest.approx(metrics.stoi(x, y, RATE), abs=1e-6)
  assert files[0]["encode_speed"] > 0

  # Means of what the files have, and a row of the table of what the means have.
  for name in ("si_sdr", "mel_distance", "stft_distance", "stoi"):
    values = [row[name] for row in files if row[name] is not None]
    assert mean[name] == pytest.approx(np.mean(values))
  assert mean["num_bytes"] == sum(row["num_bytes"] for row in files)
  assert len(mean["codebook_used"]) == len(mean["perplexity"]) == 2
  cells = out.splitlines()[2].split()
  assert cells[0] == "speech-16khz@1"
  assert cells[1:7] == [
    "16",
    f"{mean['kbps']:.2f}",
    f"{mean['si_sdr']:.1f}",
    f"{mean['mel_distance']:.2f}",
    f"{mean['stft_distance']:.2f}",
    f"{mean['stoi']:.3f}",
  ]
  assert cells[8] == f"{np.mean(mean['codebook_used']):.0%}"
  assert cells[9:] == [f"{mean[name]:.0f}x" for name in ("encode_speed", "decode_speed")]
  assert "Means over 2 files, 1." in out

  assert call(capsys, *arguments)[0] == 2  # Not over a file that is there.


def test_json_alone_goes_to_stdout(capsys, folder):
  arguments = ("--bitrate", "1", "--baselines", "none", "--limit", "1", "--json", "-", folder)
  status, out, err = call(capsys, *arguments)
  assert status == 0
  assert len(json.loads(out)["files"]) == 1
  assert "speech-16khz@1" in err


@pytest.mark.parametrize(
  ("arguments", "status", "message"),
  [
    (["none"], 2, "no directory none"),
    (["FOLDER", "--bitrate", "7"], 2, "has no bitrate 7 kbit/s"),
    (["FOLDER", "--codecs", "speech-16khz,none"], 2, "no codec 'none'"),
    (["FOLDER", "--codecs", "speech-16khz,"], 2, "--codecs has an empty name"),
    (["FOLDER", "--limit", "0"], 2, "--limit must be 1 or more"),
    (["FOLDER", "--json", "none/a.json"], 2, "no directory none"),
    (["EMPTY"], 1, "holds no sound files"),
    (["BROKEN"], 1, "none of 1 sound files can be read; the first: BROKEN/b.wav is not"),
  ],
)
def test_errors_are_one_line(capsys, monkeypatch, folder, arguments, status, message):
  monkeypatch.chdir(folder.parent)
  for name in ("EMPTY", "BROKEN"):
    pathlib.Path(name).mkdir()
  pathlib.Path("BROKEN", "b.wav").write_bytes(b"RIFF")
  names = {"FOLDER": folder}
  arguments = [names.get(argument, argument) for argument in arguments]
  found, out, err = call(capsys, *arguments, "--baselines", "none")
  assert (found, out) == (status, "")
  assert message in err
  assert err.count("\n") == 1


def test_sums_of_a_system_that_halves(folder):
  result = evaluate.run([halver(), halver(8_000)], evaluate.sound_files(folder))
  samples = 12_800 + math.ceil(9_600 * RATE / 22_050)
  first, second = result.means
  assert (first.files, first.num_bytes) == (2, samples)
  assert first.kbps == pytest.approx(128)
  assert first.si_sdr > 100  # It ignores gains.
  assert first.encode_speed == pytest.approx(samples / RATE / 2)
  assert first.decode_speed == pytest.approx(samples / RATE / 4)
  # Codes 0..2, thrice 0 and 1 and twice 2, in the first column: 0 2 1 0 of each file.
  np.testing.assert_allclose(first.codebook_used, [1, 3 / 4])
  np.testing.assert_allclose(first.perplexity, [2**1.5, 2**1.5])
  assert second.sample_rate == 8_000
  assert second.seconds == pytest.approx(first.seconds, abs=1e-3)
  assert len(result.files) == 4
  assert [reason.split(" is not")[0] for _, reason in result.skipped] == [str(folder / "b.wav")]


def test_what_is_not_defined_is_null_and_a_dash(capsys, tmp_path):
  soundfile.write(tmp_path / "silence.wav", np.zeros(1600), RATE)
  result = evaluate.run([halver(name="[b]x")], [tmp_path / "silence.wav"])
  assert math.isnan(result.means[0].stoi)
  text = json.dumps(result.to_json(), allow_nan=False)
  assert json.loads(text)["means"][0]["si_sdr"] is None
  evaluate.print_table(result)
  assert capsys.readouterr().out.splitlines()[2].split()[:4] == ["[b]x@128", "16", "128.00", "-"]


def test_no_figure_is_cut_in_a_narrow_terminal(capsys, monkeypatch, folder):
  monkeypatch.setenv("FORCE_COLOR", "1")
  monkeypatch.setenv("COLUMNS", "80")
  result = evaluate.run([halver(name="a" * 100)], evaluate.sound_files(folder))
  evaluate.print_table(result)
  out = capsys.readouterr().out
  assert "a" * 100 + "@128" in out
  assert f"{result.means[0].mel_distance:.2f}" in out
  assert "\N{HORIZONTAL ELLIPSIS}" not in out


def test_a_file_of_no_samples_is_skipped(tmp_path):
  soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
  soundfile.write(tmp_path / "full.wav", syllables(0.1), RATE)
  result = evaluate.run([halver()], [tmp_path / "empty.wav", tmp_path / "full.wav"])
  assert result.means[0].files == 1
  assert result.skipped[0][1].endswith("holds no samples")


@pytest.mark.parametrize("lag", [-7, 0, 12])
def test_the_lag_is_found_up_to_the_most(lag):
  x = syllables(0.2)[:, 0]
  y = np.roll(0.3 * x, lag)
  assert best_lag(x, y, 20) == lag
  assert best_lag(x, y[:-50], 20) == lag
  assert best_lag(x, np.zeros(5), 20) == 0
  assert best_lag(x[:1], x[:1], 20) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are shell scripts")
class TestStandIns:
  """Programs of ours that take the place of the real ones."""

  @pytest.fixture
  def programs(self, tmp_path, monkeypatch):
    place = tmp_path / "bin"
    place.mkdir()
    for name in ("sh", "cat", "head"):
      (place / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(place))

    def write(**scripts):
      for name, script in scripts.items():
        (place / name).write_text(f"#!/bin/sh\n{script}\n")
        (place / name).chmod(0o755)

    return write

  def test_nothing_installed_is_said_and_no_error(self, programs, capsys, folder):
    systems, missing = baselines.find([(RATE, 1)])
    assert systems == []
    assert [line.split()[0] for line in missing] == ["Opus", "Codec"]
    status, out, err = call(capsys, "--bitrate", "1", "--limit", "1", folder)
    assert status == 0
    assert "Opus is left out" in err
    rows = [line.split()[0] for line in out.splitlines() if "@" in line]
    assert rows == ["codec@kbit/s", "speech-16khz@1"]

  def test_a_late_program_is_moved_to_where_it_belongs(self, programs):
    # 40 ms of zeros come before what was coded.
    programs(c2enc='cat "$2" > "$3"', c2dec='(head -c 640 /dev/zero; cat "$2") > "$3"')
    systems, missing = baselines.find([(RATE, 1)])
    assert [system.bitrate for system in systems] == [3200, 2400, 1300, 700]
    assert len(missing) == 1
    x = np.concatenate([syllables(0.4), np.zeros((800, 1), np.float32)])
    coded = systems[0].code(x)
    assert coded.num_bytes == 2 * len(x)
    np.testing.assert_allclose(coded.wave, x, atol=1 / 65_536)  # Half a step of 16 bits.
    assert coded.encode_seconds > 0

  def test_a_program_that_fails_says_so_in_one_line(self, programs):
    programs(c2enc="echo first >&2; echo 'no such mode' >&2; exit 3", c2dec="exit 4")
    systems, _ = baselines.find([])
    with pytest.raises(jaxcodec.CodecError, match=r"^c2enc failed: no such mode$"):
      systems[0].code(syllables(0.1))
    programs(c2enc='cat "$2" > "$3"')
    with pytest.raises(jaxcodec.CodecError, match=r"^c2dec failed: exit status 4$"):
      systems[0].code(syllables(0.1))


@pytest.mark.parametrize("tools", ["own", "ffmpeg"])
@pytest.mark.parametrize("name", ["opus", "codec2"])
def test_the_real_programs(monkeypatch, name, tools):
  own = {"opus": ("opusenc", "opusdec"), "codec2": ("c2enc", "c2dec")}[name]
  wanted = own if tools == "own" else ("ffmpeg",)
  if not all(shutil.which(program) for program in wanted):
    pytest.skip(f"{wanted[0]} is not installed")
  if tools == "ffmpeg":
    monkeypatch.setattr(baselines, "_installed", lambda *programs: programs == ("ffmpeg",))
  channels = 2 if name == "opus" else 1
  systems = [s for s in baselines.find([(RATE, channels)])[0] if s.name == name]
  if not systems:
    pytest.skip(f"ffmpeg has no {name}")
  best = max(systems, key=lambda system: system.bitrate)
  x = syllables(2) * np.ones(channels, np.float32)
  x = x[::2] if name == "codec2" else x  # 8 kHz
  coded = best.code(x)
  assert coded.wave.shape == x.shape
  assert coded.codes is None
  seconds = len(x) / best.sample_rate
  assert 8 * coded.num_bytes / seconds == pytest.approx(best.bitrate, rel=0.5)
  loud = np.convolve(np.abs(x[:, 0]), np.ones(800), "same")
  moved = np.convolve(np.abs(coded.wave[:, 0]), np.ones(800), "same")
  assert best_lag(loud, moved, 400) == pytest.approx(0, abs=80)
  assert np.corrcoef(loud, moved)[0, 1] > 0.8
  if name == "opus":
    assert metrics.si_sdr(x, coded.wave) > 3


def test_a_codec_gives_one_system_a_rate():
  codec = jaxcodec.load("speech-16khz")
  systems = evaluate.codec_systems("mine", codec)
  assert [system.bitrate for system in systems] == list(codec.bitrates)
  assert {system.name for system in systems} == {"mine"}
  (one,) = evaluate.codec_systems("mine", codec, 3000)
  assert one.bitrate == 3000
  with pytest.raises(ValueError, match="has no bitrate 7"):
    evaluate.codec_systems("mine", codec, 7)
  assert dataclasses.is_dataclass(one)
