"""What a run shows."""

import io
import re

import rich.console

from jaxcodec.training import watch


def test_a_narrow_terminal_shows_the_bar_the_speed_and_all_losses(monkeypatch, tmp_path):
  screen = io.StringIO()
  console = rich.console.Console(file=screen, force_terminal=True, width=60, color_system=None)
  monkeypatch.setattr(watch, "Console", lambda **_: console)
  losses = {f"loss_{i}": 0.1 for i in range(12)}
  with watch.Log(tmp_path, 0, 20) as log:
    log.step(10)
    log.write(10, losses)
  last = screen.getvalue().split("training")[-1]
  assert re.search(r"━━ +10/20 \S+ [\d.]+/s", last)
  assert all(f"{name} 0.1" in " ".join(last.split()) for name in losses)
