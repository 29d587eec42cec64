#!/usr/bin/env bash
# TPU VMs: makes a slice, installs jaxcodec on every host, and runs the command on all of them.
# Usage: PROJECT=... ZONE=... bash this file. Given again after a preemption, the run goes on.
set -euo pipefail
tpu=(gcloud compute tpus tpu-vm)
where=(--project "$$PROJECT" --zone "$$ZONE")

if ! "$${tpu[@]}" describe $name "$${where[@]}" > /dev/null 2>&1; then
  "$${tpu[@]}" create $name "$${where[@]}" --accelerator-type $accelerator --version $runtime
fi
"$${tpu[@]}" scp --recurse . $name:jaxcodec "$${where[@]}" --worker all
"$${tpu[@]}" ssh $name "$${where[@]}" --worker all --command 'cd jaxcodec && pip install -q -e ".[tpu]" && $command'
