"""The command as a user calls it."""

import hashlib
import io
import json
import pathlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
import soundfile

import jaxcodec
from jaxcodec import cli
from jaxcodec.audio.lyra import Lyra, LyraConfig


@pytest.fixture
def talk(tmp_path) -> pathlib.Path:
  """Half a second of stereo sound at 44.1 kHz."""
  time = np.arange(22_050) / 44_100
  wave = 0.3 * np.sin(2 * np.pi * 220 * time)[:, None] * [1.0, 0.5]
  soundfile.write(tmp_path / "talk.flac", wave, 44_100)
  return tmp_path / "talk.flac"


def call(capsys, *arguments) -> tuple[int, str, str]:
  status = cli.main([str(argument) for argument in arguments])
  captured = capsys.readouterr()
  assert "Traceback" not in captured.err
  return status, captured.out, captured.err


@pytest.fixture(scope="module")
def coded_talk() -> bytes:
  """Half a second of the bundled codec's file."""
  time = np.arange(8_000, dtype=np.float32) / 16_000
  return jaxcodec.compress(jaxcodec.load("speech-16khz"), 0.3 * np.sin(1400 * time)[None, :, None])


def test_a_recording_goes_to_a_file_and_back(capsys, tmp_path, talk):
  coded, decoded = tmp_path / "talk.jxc", tmp_path / "back.wav"
  status, out, err = call(capsys, "encode", talk, coded, "--bitrate", "3")
  assert (status, out) == (0, "")
  assert "resampled from 44100 to 16000 Hz, stereo to mono" in err
  status, out, err = call(capsys, "decode", coded, decoded)
  assert (status, out) == (0, "")
  sound, rate = soundfile.read(decoded)
  assert (sound.shape, rate) == ((8_000,), 16_000)
  status, out, _ = call(capsys, "info", coded, "--json")
  facts = json.loads(out)
  assert status == 0
  assert facts["bytes"] == coded.stat().st_size
  (stream,) = facts["streams"]
  assert stream["codec"] == "speech-16khz"
  assert stream["samples"] == 8_000
  assert stream["bytes"] == coded.stat().st_size
  assert stream["nominal_kbps"] == 3.0


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3", "opus", "aiff"])
def test_decode_writes_the_format_that_the_suffix_names(capsys, tmp_path, coded_talk, suffix):
  coded = tmp_path / "talk.jxc"
  coded.write_bytes(coded_talk)
  status, _, err = call(capsys, "decode", coded, tmp_path / f"back.{suffix}")
  assert status == 0, err
  sound, rate = soundfile.read(tmp_path / f"back.{suffix}")
  assert rate == 16_000
  assert len(sound) >= 8_000


@pytest.mark.slow
def test_stdin_and_stdout_carry_both_kinds_of_data(talk):
  command = [sys.executable, "-m", "jaxcodec.cli"]
  coded = subprocess.run(
    [*command, "encode", "-", "-"], input=talk.read_bytes(), capture_output=True, check=True
  )
  sound = subprocess.run(
    [*command, "decode", "-", "-"], input=coded.stdout, capture_output=True, check=True
  )
  wave, rate = soundfile.read(io.BytesIO(sound.stdout))
  assert (wave.shape, rate) == ((8_000,), 16_000)


@pytest.mark.slow
def test_raw_samples_go_through_live():
  raw = (8000 * np.sin(np.arange(1000) / 5)).astype("<i2").tobytes()
  command = [sys.executable, "-m", "jaxcodec.cli", "stream", "--bitrate", "1", "--frames", "2"]
  out = subprocess.run(command, input=raw, capture_output=True, check=True)
  assert len(out.stdout) == len(raw)
  assert b"chunks of 40 ms" in out.stderr
  assert b"x real time" in out.stderr


def test_nothing_is_written_over_without_force(capsys, tmp_path, talk):
  coded = tmp_path / "talk.jxc"
  coded.write_bytes(b"mine")
  status, _, err = call(capsys, "encode", talk, coded)
  assert status == 2
  assert "--force" in err
  assert coded.read_bytes() == b"mine"
  assert call(capsys, "encode", talk, coded, "--force")[0] == 0
  assert coded.read_bytes() != b"mine"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "required: COMMAND"),
    (["encode"], "required: input, output"),
    (["sing"], "invalid choice"),
    (["stream", "--frames", "0"], "--frames 0"),
    (["stream", "--format", "mp3"], "invalid choice"),
    (["encode", "none.wav", "a.jxc"], "no file none.wav"),
    (["encode", "TALK", "none/a.jxc"], "no directory none"),
    (["encode", "TALK", "a.jxc", "--bitrate", "7"], "has no bitrate 7 kbit/s; it has 1, 1.5, 2"),
    (["encode", "TALK", "a.jxc", "--bitrate", "nan"], "has no bitrate nan"),
    (["encode", "TALK", "a.jxc", "--bitrate", "much"], "invalid float"),
    (["encode", "TALK", "a.jxc", "--codec", "none"], "no codec 'none'"),
    (["encode", "TALK", "."], "is a directory"),
    (["decode", "CODED", "a.xyz"], "no sound format"),
    (["decode", "CODED", "a"], "no sound format"),
    (["decode", "CODED", "a.wav", "--start", "0.6"], "start 0.6 s lies after the end, 0.5 s"),
    (["decode", "CODED", "a.wav", "--start", "-1"], "start must be 0 seconds or more"),
    (["decode", "CODED", "a.wav", "--duration", "nan"], "duration must be 0 seconds or more"),
    (["decode", "CODED", "a.wav", "--stream", "1"], "has no stream 1: it holds 1"),
    (["decode", "CODED", "a.wav", "--max-memory", "much"], "invalid size value"),
    (["decode", "CODED", "a.wav", "--max-memory", "0"], "invalid size value"),
    (["encode", "TALK", "a.jxc", "--title", "two\nlines"], "the metadata 'title' has characters"),
    (["encode", "TALK", "a.jxc", "--meta", "year"], "--meta takes KEY=VALUE"),
    (["encode", "TALK", "a.jxc", "--meta", "Year=1"], "a key of metadata has 1 to 64 of a-z"),
    (["encode", "TALK", "a.jxc", "--title", "A", "--meta", "title=B"], "each key once"),
    (["join", "CODED"], "required: output"),
    (["join", "-", "a.jxc"], "not stdin"),
    (["join", "none.jxc", "a.jxc"], "no file none.jxc"),
    (["demo", "none.wav"], "no file none.wav"),
  ],
)
def test_a_wrong_call_exits_with_2_and_one_line(
  capsys, monkeypatch, tmp_path, talk, coded_talk, arguments, message
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "talk.jxc").write_bytes(coded_talk)
  names = {"TALK": "talk.flac", "CODED": "talk.jxc"}
  status, out, err = call(capsys, *[names.get(argument, argument) for argument in arguments])
  assert (status, out) == (2, "")
  assert message in err
  assert err.count("\n") == 1


@pytest.mark.parametrize(
  ("command", "name", "content", "message"),
  [
    ("encode", "bad", b"", "not a sound file"),
    ("encode", "bad", b"RIFF\0\0\0\0WAVE", "not a sound file"),
    ("encode", "bad.PNG", b"\x89PNG and no more", "not a picture"),
    ("decode", "bad", b"", "not a .jxc file"),
    ("decode", "bad", b"RIFF and more", "not a .jxc file"),
    ("info", "bad", b"\x8aJXC\x01", "truncated"),
    ("join", "bad", b"\x8aJXC\x01", "truncated"),
  ],
)
def test_bad_data_exits_with_1_and_one_line(capsys, tmp_path, command, name, content, message):
  bad = tmp_path / name
  bad.write_bytes(content)
  output = [] if command == "info" else [tmp_path / "out.wav"]
  status, out, err = call(capsys, command, bad, *output)
  assert (status, out) == (1, "")
  assert message in err
  assert err.count("\n") == 1
  assert not (tmp_path / "out.wav").exists()


def test_a_pickle_is_refused_with_the_line_that_converts_it(capsys, monkeypatch, tmp_path, talk):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "weights.pt").write_bytes(pickle.dumps({"weight": 1}))
  assert cli.main(["encode", str(talk), "a.jxc", "--codec", "weights.pt"]) == 1
  said = capsys.readouterr().err
  assert said.count("\n") == 1
  assert "weights.pt is a pickle" in said
  assert "safetensors.torch.save_file" in said


def test_samples_that_are_not_finite_are_named_in_one_line(capsys, tmp_path):
  wave = np.zeros(1600, np.float32)
  wave[5] = np.nan
  soundfile.write(tmp_path / "nan.wav", wave, 16_000, subtype="FLOAT")
  status, _, err = call(capsys, "encode", tmp_path / "nan.wav", tmp_path / "nan.jxc")
  assert status == 1
  assert "not finite" in err
  assert err.count("\n") == 1


@pytest.mark.slow
def test_a_file_of_exactly_one_block_is_resampled_to_its_end(capsys, tmp_path):
  soundfile.write(tmp_path / "ten.wav", np.zeros(80_000), 8_000)
  assert call(capsys, "encode", tmp_path / "ten.wav", tmp_path / "ten.jxc")[0] == 0
  out = call(capsys, "info", tmp_path / "ten.jxc", "--json")[1]
  assert json.loads(out)["streams"][0]["samples"] == 160_000


def test_a_damaged_file_leaves_nothing_behind(capsys, tmp_path, coded_talk):
  coded, data = tmp_path / "talk.jxc", bytearray(coded_talk)
  data[-20] ^= 1
  coded.write_bytes(data)
  status, _, err = call(capsys, "decode", coded, tmp_path / "back.wav")
  assert status == 1
  assert "chunk 0 is damaged" in err
  assert sorted(path.name for path in tmp_path.iterdir()) == ["talk.jxc"]


def test_an_empty_recording_stays_empty(capsys, tmp_path):
  soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
  assert call(capsys, "encode", tmp_path / "none.wav", tmp_path / "none.jxc")[0] == 0
  assert call(capsys, "decode", tmp_path / "none.jxc", tmp_path / "back.wav")[0] == 0
  assert soundfile.info(tmp_path / "back.wav").frames == 0


GOLDEN = pathlib.Path(__file__).parent / "golden"


def test_a_part_by_seconds_is_that_of_the_whole(capsys, tmp_path):
  source = GOLDEN / "speech.jxc"
  assert call(capsys, "decode", source, tmp_path / "whole.wav")[0] == 0
  part = ("--start", "0.1", "--duration", "0.15")
  status, _, err = call(capsys, "decode", source, tmp_path / "part.wav", *part)
  assert status == 0, err
  assert "part.wav: 0.15 s at 16000 Hz" in err
  whole, found = (soundfile.read(tmp_path / f"{name}.wav", dtype="int16")[0] for name in
                  ("whole", "part"))  # fmt: skip
  assert found.shape == (2400,)
  np.testing.assert_allclose(found, whole[1600:4000], atol=1)


def test_title_and_hash_go_into_the_file_and_info_says_them(capsys, tmp_path, talk):
  coded = tmp_path / "talk.jxc"
  about = ("--title", "Ein Gespräch", "--meta", "year=2026", "--source-hash")
  assert call(capsys, "encode", talk, coded, *about)[0] == 0
  status, out, _ = call(capsys, "info", coded, "--check", "--json")
  facts, digest = json.loads(out), hashlib.sha256(talk.read_bytes()).hexdigest()
  assert status == 0
  assert facts["metadata"] == {"title": "Ein Gespräch", "year": "2026", "source-sha256": digest}
  assert facts["checked"] is True
  out = call(capsys, "info", coded)[1]
  assert "title           Ein Gespräch\n" in out
  assert jaxcodec.info(coded.read_bytes(), check=True) == facts
  data = bytearray(coded.read_bytes())
  data[-20] ^= 1
  coded.write_bytes(data)
  assert call(capsys, "info", coded)[0] == 0
  status, out, err = call(capsys, "info", coded, "--check")
  assert (status, out) == (1, "")
  assert "chunk 0 is damaged (checksum)" in err


def test_joined_files_are_one_of_several_streams(capsys, tmp_path):
  both, source = tmp_path / "both.jxc", GOLDEN / "speech.jxc"
  status, _, err = call(capsys, "join", source, GOLDEN / "grown.jxc", both, "--title", "Both")
  assert status == 0, err
  assert "2 streams" in err
  facts = json.loads(call(capsys, "info", both, "--check", "--json")[1])
  assert facts["metadata"] == {"title": "Both"}
  assert [stream["codec"] for stream in facts["streams"]] == ["speech-16khz", "golden"]
  assert sum(stream["bytes"] for stream in facts["streams"]) == both.stat().st_size
  assert facts["streams"][0]["metadata"] == {"title": "voice"}
  status, _, err = call(capsys, "decode", both, tmp_path / "a.wav")
  assert status == 2
  assert "holds 2 streams: give --stream, from 0" in err
  assert call(capsys, "decode", both, tmp_path / "a.wav", "--stream", "0")[0] == 0
  assert soundfile.info(tmp_path / "a.wav").frames == 5000
  status, _, err = call(capsys, "decode", both, tmp_path / "b.wav", "--stream", "1")
  assert status == 1
  assert "'golden', which is not bundled" in err


def test_a_file_that_needs_more_than_is_allowed_is_refused(capsys, tmp_path):
  source, out = GOLDEN / "speech.jxc", tmp_path / "a.wav"
  status, _, err = call(capsys, "decode", source, out, "--max-memory", "1M")
  assert (status, err.count("\n")) == (1, 1)
  assert "by what it says the file needs 1 MB of memory, and 1 are allowed" in err
  status, _, err = call(capsys, "decode", source, out, "--max-memory", "100")
  assert (status, err.count("\n")) == (1, 1)
  assert "speech.jxc is larger than the memory that is allowed" in err
  assert not out.exists()
  assert call(capsys, "decode", source, out, "--max-memory", "1.5m")[0] == 0


@pytest.fixture
def tiny_lyra(tmp_path) -> pathlib.Path:
  """Lyra with few channels and random weights, as `save` writes it."""
  net = LyraConfig(
    widths=(2, 2),
    kernel_sizes=(16, 20),
    strides=(16, 20),
    groups=(1, 1),
    unit_groups=(1,),
    dilations=(1,),
    features=4,
    last_groups=1,
  )
  module = Lyra(net=net)
  shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 320, 1), np.float32))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape), shapes["params"])
  prior = np.ones((46, 16), np.int32)
  jaxcodec.save(jaxcodec.Codec(module=module, params=params, prior=prior, name="tiny"), tmp_path)
  return tmp_path


def test_a_recording_goes_to_lyra_packets_and_back(capsys, tmp_path, talk, tiny_lyra):
  packets, back = tmp_path / "talk.lyra", tmp_path / "back.wav"
  lyra = ("--codec", tiny_lyra)
  status, _, err = call(capsys, "encode", talk, packets, *lyra, "--bitrate", "6")
  assert status == 0, err
  # Half a second: 25 frames of 15 bytes.
  assert packets.stat().st_size == 25 * 15
  status, _, err = call(capsys, "decode", packets, back, *lyra, "--bitrate", "6")
  assert status == 0, err
  sound, rate = soundfile.read(back)
  assert (sound.shape, rate) == ((8_000,), 16_000)
  # The codes are those of a .jxc file, and so is the sound.
  assert call(capsys, "encode", talk, tmp_path / "a.jxc", *lyra, "--bitrate", "6")[0] == 0
  assert call(capsys, "decode", tmp_path / "a.jxc", tmp_path / "a.wav", *lyra)[0] == 0
  np.testing.assert_array_equal(sound, soundfile.read(tmp_path / "a.wav")[0])

  for arguments, status, words in (
    ((packets, "b.wav", "--bitrate", "6"), 2, "give --codec and --bitrate"),
    ((packets, "b.wav", *lyra), 2, "give --codec and --bitrate"),
    ((packets, "b.wav", *lyra, "--bitrate", "3.2"), 1, "no whole number of packets of 8 bytes"),
    ((packets, "b.wav", *lyra, "--bitrate", "5"), 2, "no bitrate 5 kbit/s; it has 3.2, 6, 9.2"),
    ((packets, "b.wav", "--codec", "speech-16khz", "--bitrate", "6"), 2, "is another codec"),
    ((tmp_path / "a.jxc", "b.wav", *lyra, "--bitrate", "6"), 2, "a .jxc file says its own"),
    ((packets, "b.wav", *lyra, "--bitrate", "6", "--start", "1"), 2, "are for .jxc files"),
  ):
    found, _, err = call(capsys, "decode", *arguments)
    assert (found, err.count("\n")) == (status, 1), err
    assert words in err
  found, _, err = call(capsys, "encode", talk, tmp_path / "b.lyra", *lyra, "--title", "A")
  assert found == 2
  assert "no metadata go into them" in err
  found, _, err = call(capsys, "encode", talk, tmp_path / "b.lyra")
  assert found == 2
  assert "speech-16khz is another codec" in err


def test_codecs_lists_what_is_bundled(capsys):
  status, out, _ = call(capsys, "codecs")
  assert status == 0
  assert "speech-16khz: 16000 Hz, 1 channel, causal, 1, 1.5, 2, 3, 4, 5, 6 kbit/s" in out
