"""Files that start a command on every host of a slice or a cluster.

Command: python -m launch.starters gke|tpu_vm|slurm --name NAME --topology v5e:4x8 \\
  [--image IMAGE] -- python -m launch.train --config configs/X.py --workdir DIR --distributed

Prints the file. All run the same command; a run that is started again goes on by itself. The image
is made by launch/templates/Dockerfile.
"""

import math
import pathlib
import re
import shlex
import string
import sys
from typing import NamedTuple

from jaxcodec import terminal

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_FILES = {"gke": "gke.yaml", "tpu_vm": "tpu_vm.sh", "slurm": "slurm.sh"}


class _Kind(NamedTuple):
  """What the cloud calls a generation; `cores` are what its accelerator types count."""

  accelerator: str
  gke: str
  runtime: str
  cores: int


_KINDS = {
  "v5e": _Kind("v5litepod", "tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite", 1),
  "v5p": _Kind("v5p", "tpu-v5p-slice", "v2-alpha-tpuv5", 2),
  "v6e": _Kind("v6e", "tpu-v6e-slice", "v2-alpha-tpuv6e", 1),
}
_CHIPS_PER_HOST = 4


def main(arguments: list[str] | None = None) -> int:
  """Runs the command with `arguments`, `sys.argv` if None, and returns its exit status."""
  parser = terminal.Parser(
    prog="launch.starters", description="Prints a file that starts a command."
  )
  parser.add_argument("where", choices=tuple(_FILES))
  parser.add_argument("--name", required=True, help="small letters, digits and dashes")
  parser.add_argument("--topology", required=True, help="such as v5e:4x8; GPUs as gpu:HOSTSxGPUS")
  parser.add_argument("--image", default="", help="of the container, for GKE")
  parser.add_argument("command", nargs="+", help="after --")
  try:
    options = parser.parse_args(arguments)
    print(
      rendered(options.where, options.name, options.topology, options.image, options.command),
      end="",
    )
  except ValueError as error:
    print(f"launch.starters: {error}", file=sys.stderr)
    return 2
  return 0


def rendered(where: str, name: str, topology: str, image: str, command: list[str]) -> str:
  """The file for `where`.

  Raises:
    ValueError: for a name or a topology that is none, or a command that cannot stand in the file.
  """
  if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name):
    raise ValueError(f"{name!r} is no name: small letters, digits and dashes")
  text = shlex.join(command)
  # It stands between quotes of a shell or of YAML.
  if re.search(r"""["'\\\n]""", text):
    raise ValueError(f"quotes cannot stand in the command: {text}")
  found = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", topology)
  if found is None or found[1] not in (*_KINDS, "gpu") or (found[1] == "gpu") != (where == "slurm"):
    raise ValueError(f"no topology {topology!r} for {where}: as v5e:4x8, for SLURM as gpu:4x8")
  sides = [int(side) for side in found[2].split("x")]
  fields: dict[str, object]
  if where == "slurm":
    hosts, per_host = sides[0], math.prod(sides[1:])
    fields = {"hosts": hosts, "chips_per_host": per_host}
  else:
    kind, chips = _KINDS[found[1]], math.prod(sides)
    per_host = min(chips, _CHIPS_PER_HOST)
    if where == "gke" and not image:
      raise ValueError("GKE needs an --image")
    fields = {
      "hosts": max(1, chips // per_host),
      "chips_per_host": per_host,
      "accelerator": f"{kind.accelerator}-{chips * kind.cores}",
      "gke_accelerator": kind.gke,
      "runtime": kind.runtime,
    }
  template = string.Template((_TEMPLATES / _FILES[where]).read_text())
  return template.substitute(fields, name=name, topology=found[2], image=image, command=text)


if __name__ == "__main__":
  sys.exit(main())
