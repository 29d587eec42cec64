#!/usr/bin/env bash
# SLURM: sbatch this file, from a checkout whose environment is active. A job that is preempted is
# queued again, and the run goes on by itself.
#SBATCH --job-name=$name
#SBATCH --nodes=$hosts
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=$chips_per_host
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
srun --kill-on-bad-exit=1 bash -c '$command'
