"""One of two processes: port, index, and a file for what was found by `test_training_mesh`.

With a run's directory instead and the arguments of `launch.train` after it, that command.
"""

import sys

import jax
import micro
import numpy as np

from jaxcodec.training.config import Mesh
from launch import processes, train

if __name__ == "__main__":
  port, index, path, *arguments = sys.argv[1:]
  place = {"coordinator_address": f"localhost:{port}", "num_processes": 2}
  processes.join(**place, process_id=int(index))
  if arguments:
    sys.exit(train.main(["--config", micro.__file__, "--workdir", path, *arguments]))
  losses, codebooks = micro.run_steps(Mesh(data=2, fsdp=2, model=2, fsdp_smallest=1), jax.devices())
  np.savez(path, losses=losses, codebooks=codebooks)
