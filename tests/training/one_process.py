"""One of two processes of `test_training_mesh`: port, index, file for what was found."""

import sys

import jax
import micro
import numpy as np

from jaxcodec.training.config import Mesh

if __name__ == "__main__":
  port, index, path = sys.argv[1:]
  jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(index))
  losses, codebooks = micro.run_steps(Mesh(data=2, fsdp=2, model=2, fsdp_smallest=1), jax.devices())
  np.savez(path, losses=losses, codebooks=codebooks)
