"""`jaxcodec evaluate`: codecs over a folder of sounds or of pictures."""

import argparse
import functools
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from jaxcodec import terminal
from jaxcodec.cli_picture import is_latent
from jaxcodec.errors import CodecError


def evaluate(options: argparse.Namespace) -> None:
  folder = pathlib.Path(options.folder)
  if not folder.is_dir():
    raise terminal.UsageError(f"no directory {folder}")
  if options.limit is not None and options.limit < 1:
    raise terminal.UsageError(f"--limit must be 1 or more, got {options.limit}")
  for path in (options.json, options.plot):
    if path:
      terminal.check_output(path, options.force)
  names = (options.codecs or _default_codec(folder)).split(",")
  if "" in names:
    raise terminal.UsageError(f"--codecs has an empty name: {options.codecs!r}")
  fitted = terminal.FITTED_CODEC
  codecs = {name: None if name == fitted else terminal.load_any(name) for name in names}
  pictures = {codec is None or is_latent(codec) for codec in codecs.values()}
  if len(pictures) > 1:
    raise terminal.UsageError("--codecs has codecs of sound and of pictures: give one kind")
  (_pictures if pictures == {True} else _sounds)(options, folder, codecs)


def _default_codec(folder: pathlib.Path) -> str:
  from jaxcodec import evaluate as sounds, evaluate_pictures

  try:
    sounds.sound_files(folder)
  except CodecError:
    if evaluate_pictures.picture_files(folder):
      return terminal.PICTURE_CODEC
    raise
  return terminal.SOUND_CODEC


def _sounds(options: argparse.Namespace, folder: pathlib.Path, codecs: dict[str, Any]) -> None:
  from jaxcodec import baselines, evaluate as lib

  if options.quality is not None or options.steps is not None or options.refine or options.plot:
    raise terminal.UsageError("--quality, --steps, --refine and --plot are for pictures")
  systems = [
    system
    for name, codec in codecs.items()
    for system in lib.codec_systems(name, codec, terminal.bitrate(codec, options.bitrate))
  ]
  missing = [] if lib.pesq_is_installed() else ["PESQ is left out: pip install 'jaxcodec[metrics]'"]
  if options.baselines == "auto":
    formats = dict.fromkeys((system.sample_rate, system.channels) for system in systems)
    found, absent = baselines.find(formats)
    systems, missing = systems + found, missing + absent
  sources = lib.sound_files(folder)[: options.limit]
  if options.perception:
    _perceived_sounds(options, systems, sources, missing)
    return
  with _bars() as bars:
    result = lib.run(systems, bars.track(sources, description="evaluating"))
  _say(result, len(sources), missing)
  lib.print_table(result, stderr=options.json == "-")
  _write(options, result.to_json() | {"missing": missing})


def _pictures(options: argparse.Namespace, folder: pathlib.Path, codecs: dict[str, Any]) -> None:
  from jaxcodec import evaluate_pictures as lib, picture_baselines, picture_report

  if options.bitrate is not None:
    raise terminal.UsageError("--bitrate is for sound")
  if options.steps is not None and terminal.FITTED_CODEC not in codecs:
    raise terminal.UsageError(f"--steps is for --codecs {terminal.FITTED_CODEC}")
  if options.refine < 0:
    raise terminal.UsageError(f"--refine takes a number of steps, not {options.refine}")
  if options.refine and terminal.FITTED_CODEC in codecs:
    raise terminal.UsageError(f"--refine does not go with --codecs {terminal.FITTED_CODEC}")
  qualities = None if options.quality is None else (options.quality,)
  bars = _bars()
  systems = []
  try:
    for name, codec in codecs.items():
      if codec is None:
        systems += lib.fitted_systems(qualities, options.steps, _fitting(bars))
      else:
        systems += lib.codec_systems(name, codec, qualities)
        if options.refine:
          systems += lib.codec_systems(f"{name}, refined", codec, qualities, options.refine)
  except ValueError as error:
    raise terminal.UsageError(str(error)) from None
  missing: list[str] = []
  if options.baselines == "auto":
    found, missing = picture_baselines.find()
    systems += found
  sources = lib.picture_files(folder)[: options.limit]
  if not sources:
    raise CodecError(f"{folder} holds no pictures")
  if options.perception:
    _perceived_pictures(options, systems, sources, missing, bars)
    return
  try:
    with bars:
      result = lib.run(systems, bars.track(sources, description="evaluating"))
  except ValueError as error:  # A quality out of range, a codec without files.
    raise terminal.UsageError(str(error)) from None
  _say(result, len(sources), missing)
  anchor = "jpeg" if options.baselines == "auto" else None
  picture_report.print_table(result, anchor, stderr=options.json == "-")
  if options.plot:
    from jaxcodec import atomic

    with atomic.replacing(pathlib.Path(options.plot)) as temporary:
      picture_report.curves_png(temporary, result)
  _write(options, result.to_json() | {"missing": missing})


def _perceived_pictures(
  options: argparse.Namespace, systems, sources, missing: list[str], bars
) -> None:
  from jaxcodec import perception as lib
  from jaxcodec.image import files

  if options.plot:
    raise terminal.UsageError("--plot draws no curves of --perception")
  model = _model(options.perception)
  items = (
    lib.Item(str(path), files.read_picture(path, str(path)).samples[0], lib.kind_of(path))
    for path in bars.track(sources, description="evaluating")
  )
  with bars:
    found = lib.run(systems, items, lambda pixels, kind: float(model(pixels) == kind))
  lib.print_table(found, "bits/pixel", stderr=options.json == "-")
  _write(options, found.to_json() | {"left_out": missing})


def _perceived_sounds(options: argparse.Namespace, systems, sources, missing: list[str]) -> None:
  from jaxcodec import evaluate, perception as lib

  model = _model(options.perception)
  tables = []
  # A model hears waves at the rate of the codec.
  for rate, channels in dict.fromkeys((system.sample_rate, system.channels) for system in systems):
    own = [
      system for system in systems if (system.sample_rate, system.channels) == (rate, channels)
    ]
    bars = _bars()
    items = (
      lib.Item(str(path), evaluate.read_wave(path, rate, channels), lib.kind_of(path))
      for path in bars.track(sources, description="evaluating")
    )
    score = functools.partial(_right, model, sample_rate=rate)
    with bars:
      found = lib.run(own, items, score)
    terminal.say(f"{rate} Hz, {channels} channel")
    lib.print_table(found, "bits/sample", stderr=options.json == "-")
    tables.append({"sample_rate": rate, "channels": channels, **found.to_json()})
  _write(options, {"rates": tables, "left_out": missing})


def _model(name: str):
  from jaxcodec import perception

  # An installed command has its own folder on the path, and not the user's.
  sys.path.insert(0, str(pathlib.Path.cwd()))
  return perception.model(name)


def _right(model, wave, kind: str, *, sample_rate: int) -> float:
  return float(model(wave, sample_rate) == kind)


def _bars():
  from rich.console import Console
  from rich.progress import Progress

  console = Console(stderr=True)
  return Progress(console=console, transient=True, disable=not console.is_terminal)


def _fitting(bars) -> Callable[[int, int], None]:
  """What shows how far the fit of a picture is, while one is fitted."""
  task = bars.add_task("fitting", visible=False)
  return lambda done, total: bars.update(task, completed=done, total=total, visible=done < total)


def _say(result, count: int, missing: list[str]) -> None:
  for _, reason in result.skipped:
    terminal.say(f"skipped: {reason}")
  if result.skipped:
    terminal.say(f"{len(result.skipped)} of {count} files skipped")
  for line in missing:
    terminal.say(line)


def _write(options: argparse.Namespace, found: dict[str, Any]) -> None:
  text = json.dumps(found, indent=1)
  if options.json == "-":
    print(text)
  elif options.json:
    from jaxcodec import atomic

    atomic.write(pathlib.Path(options.json), f"{text}\n".encode())
