"""What a run shows: progress in the terminal, JSON lines, TensorBoard, sounds and pictures."""

import json
import pathlib
import time

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from jaxcodec import atomic


class _BarAndNumbers(Progress):
  """A bar, and below it the last losses, in as many lines as they need."""

  numbers = ""

  def get_renderables(self):
    yield from super().get_renderables()
    yield Text(self.numbers)


class Log:
  """Writes `metrics.jsonl` and TensorBoard's events in a directory, and draws the progress.

  Lines of steps that a run has gone back before are dropped, so that each step has one.

  Attributes:
    quiet: whether to show nothing.
    writes: whether to write, as one process of a run does.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    start: int,
    num_steps: int,
    *,
    quiet: bool = False,
    writes: bool = True,
  ):
    from tensorboardX import SummaryWriter

    self._path, self._writes = workdir / "metrics.jsonl", writes
    if writes:
      self._keep_before(start)
    self._events = SummaryWriter(
      str(workdir / "tensorboard"), purge_step=start, write_to_disk=writes
    )
    self._time, self._step = time.monotonic(), start
    columns = (
      TextColumn("{task.description}"),
      BarColumn(20),
      MofNCompleteColumn(),
      TimeRemainingColumn(),
      TextColumn("{task.fields[rate]}"),
    )
    console = Console(stderr=True, quiet=quiet)
    self._progress = _BarAndNumbers(*columns, console=console, transient=True)
    self._task = self._progress.add_task("training", total=num_steps, completed=start, rate="")

  def _keep_before(self, start: int) -> None:
    if not self._path.exists():
      return
    lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
    # A line without its end was being written when the run was killed.
    whole = [line for line in lines if line.endswith("\n")]
    kept = [line for line in whole if json.loads(line)["step"] <= start]
    atomic.write(self._path, "".join(kept).encode())

  def __enter__(self):
    self._progress.start()
    return self

  def __exit__(self, *_):
    self._progress.stop()
    self._events.close()

  def step(self, step: int) -> None:
    self._progress.update(self._task, completed=step)

  def write(self, step: int, metrics: dict[str, float]) -> None:
    """One line of the log: what `metrics` holds, and steps a second since the last line."""
    if not self._writes:
      return
    now = time.monotonic()
    rate = (step - self._step) / max(now - self._time, 1e-9)
    self._time, self._step = now, step
    numbers = {"step": step, "steps_per_second": round(rate, 4)} | metrics
    # JSON has no NaN.
    line = {name: value if np.isfinite(value) else None for name, value in numbers.items()}
    with open(self._path, "a", encoding="utf-8") as file:
      file.write(json.dumps(line) + "\n")
    for name, value in metrics.items():
      if np.isfinite(value):
        self._events.add_scalar(name, value, step)
    shown = {k: v for k, v in metrics.items() if "/" not in k and k not in _NOT_SHOWN}
    text = " ".join(f"{name} {value:.4g}" for name, value in shown.items())
    self._progress.numbers = text
    self._progress.update(self._task, rate=f"{rate:.2f}/s")
    plain = f"step {step} {rate:.2f}/s {text}"
    if not self._progress.console.is_terminal:
      self._progress.console.print(plain, soft_wrap=True, highlight=False)

  def sound(self, name: str, wave: np.ndarray, step: int, sample_rate: int) -> None:
    """A wave [T]."""
    self._events.add_audio(name, wave[:, None], step, sample_rate=sample_rate)

  def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
    """Bytes [H, W, C]."""
    self._events.add_image(name, pixels, step, dataformats="HWC")

  def figure(self, name: str, figure, step: int) -> None:
    """A matplotlib figure."""
    self._events.add_figure(name, figure, step)


_NOT_SHOWN = ("dead_codes", "skipped_in_row", "perplexity")
