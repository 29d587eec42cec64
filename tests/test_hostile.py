"""Hostile files do no harm; what is killed leaves nothing under the final name."""

import signal
import subprocess
import sys
import time

import hostile
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings, strategies as st

from jaxcodec import atomic, cli
from jaxcodec.entropy import container

SEEDS = hostile.seeds()


@st.composite
def damaged(draw):
  """A file with a few bytes written over, cut out or put in; never one that is whole."""
  file = bytearray(draw(st.sampled_from(SEEDS)))
  for _ in range(draw(st.integers(1, 3))):
    at = draw(st.integers(0, len(file)))
    file[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=9))
  return bytes(file)


@settings(deadline=None, max_examples=400)
@given(damaged())
def test_a_damaged_file_is_refused_and_a_forged_one_legal_or_refused(file):
  if file not in SEEDS:
    assert hostile.attack(file) != ""
  hostile.attack(hostile.signed(file))


@settings(deadline=None, max_examples=200)
@given(
  st.binary(max_size=300), st.sampled_from([b"", b"\x8aJXC\x01", b"\x8aJXC\x01\x40\x01\x2b\x01"])
)
def test_random_bytes_are_refused(data, start):
  assert hostile.attack(start + data) != ""
  hostile.attack(hostile.signed(start + data))


def test_a_forger_with_valid_checksums_gets_past_them():
  """What `hostile.signed` makes is not refused for a checksum: attacks reach what is behind it."""
  file = bytearray(SEEDS[-1])
  starts = container.read_layout(bytes(file)).starts[0]
  file[starts[0] + 5] ^= 1
  assert "checksum" in hostile.attack(bytes(file))
  assert "checksum" not in hostile.attack(hostile.signed(bytes(file)))


def test_commands_refuse_damaged_files_with_one_line(tmp_path, capsys):
  cli.main(["info", str(tmp_path)])  # What is imported once takes its time.
  found = hostile.run(120, 0, tmp_path)
  assert found["legal"] < 30
  assert len(found) > 10


@pytest.mark.slow
def test_thirty_thousand_damaged_files_and_forgeries_do_no_harm(tmp_path):
  found = hostile.run(3000, 2, tmp_path)
  assert found["MB"] < hostile.MEGABYTES
  found = hostile.run(27_000, 3, tmp_path, commands=False)
  assert found["MB"] < hostile.MEGABYTES


def test_damaged_and_forged_pictures_are_refused_or_legal():
  found = hostile.run_pictures(400, 4)
  assert found["legal"] < 100
  assert len(found) > 10


@pytest.mark.slow
def test_three_thousand_damaged_and_forged_pictures_do_no_harm():
  assert hostile.run_pictures(3000, 5)["MB"] < hostile.MEGABYTES


def test_names_in_a_file_lead_nowhere(tmp_path, capsys, monkeypatch):
  """Neither the codec's name nor metadata are ever taken as paths."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "evil").mkdir()
  (tmp_path / "evil" / "config.json").write_text("{}")
  for name in ("evil", "../../etc", "/etc", f"{tmp_path}/evil", "~", "owner/name"):
    stream = container.Stream(
      codec=name,
      weights_hash=bytes(16),
      sample_rate=16_000,
      channels=1,
      batch=1,
      num_samples=0,
      hop_length=320,
      num_frames=0,
      frames_per_chunk=500,
      codebook_sizes=(1024,),
      metadata={"title": "../../evil", "file": "/etc/passwd"},
    )
    header = container.Header(streams=(stream,), metadata={"output": "../evil"})
    (tmp_path / "a.jxc").write_bytes(container.write(header, []))
    assert cli.main(["info", "a.jxc"]) == 0
    assert cli.main(["decode", "a.jxc", "a.wav"]) == 1
    assert f"the file needs the codec {name!r}, which is not bundled" in capsys.readouterr().err
  assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jxc", "evil"]


KILLED = """
import pathlib, sys, time
from jaxcodec.atomic import replacing
with replacing(pathlib.Path(sys.argv[1])) as temporary:
  temporary.write_bytes(b"half")
  print("half", flush=True)
  time.sleep(60)
"""


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_process_killed_while_it_writes_leaves_the_name_as_it_was(tmp_path, before):
  path = tmp_path / "out.jxc"
  if before is not None:
    path.write_bytes(before)
  process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
  assert process.stdout is not None
  assert process.stdout.readline() == b"half\n"
  process.send_signal(signal.SIGKILL)
  process.wait()
  process.stdout.close()
  assert (path.read_bytes() if path.exists() else None) == before
  atomic.write(path, b"whole")
  assert path.read_bytes() == b"whole"


def test_a_write_that_fails_leaves_nothing(tmp_path):
  def write_half():
    with atomic.replacing(tmp_path / "out.jxc") as temporary:
      temporary.write_bytes(b"half")
      raise RuntimeError

  with pytest.raises(RuntimeError):
    write_half()
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_encode_and_a_killed_decode_leave_no_half_file(tmp_path):
  talk, coded, back = (tmp_path / name for name in ("talk.wav", "talk.jxc", "back.wav"))
  wave = np.random.default_rng(0).normal(0, 0.1, 16_000 * 30).astype(np.float32)
  soundfile.write(talk, wave, 16_000)
  command = [sys.executable, "-m", "jaxcodec.cli"]
  subprocess.run([*command, "encode", talk, coded], check=True, stderr=subprocess.DEVNULL)
  whole = coded.read_bytes()

  start = time.monotonic()
  subprocess.run(
    [*command, "encode", talk, coded, "--force"], check=True, stderr=subprocess.DEVNULL
  )
  seconds = time.monotonic() - start
  for share in (0.6, 0.95):
    coded.unlink(missing_ok=True)
    process = subprocess.Popen([*command, "encode", talk, coded], stderr=subprocess.DEVNULL)
    time.sleep(share * seconds)
    process.kill()
    process.wait()
    assert not coded.exists() or coded.read_bytes() == whole

  coded.write_bytes(whole)
  process = subprocess.Popen([*command, "decode", coded, back], stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 120
  # Killed as soon as some of the sound is written.
  while time.monotonic() < deadline:
    if any(path.stat().st_size > 100_000 for path in tmp_path.glob(".back.wav.*")):
      break
    time.sleep(0.01)
  process.kill()
  process.wait()
  assert not back.exists()
  assert list(tmp_path.glob(".back.wav.*")), "it was killed before or after it wrote"
