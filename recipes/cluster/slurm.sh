#!/bin/bash
# One stage on several nodes by Slurm. The nodes share the project's folder, and with it runs/. Another run than the recipe's is named by
# PIPELINE_RUN in the environment: torchrun takes --run for an option of its own.
#
#   sbatch --nodes 2 --gpus-per-node 8 recipes/cluster/slurm.sh ppo recipes/tldr.yaml
#
#SBATCH --job-name=pipeline
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
each=${SLURM_GPUS_ON_NODE:-1}

# TERM comes two minutes before the time is over: a state is saved, and the same command goes on from it.
# --rdzv-conf: torchrun waits so many seconds for all nodes to come.
exec srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m torch.distributed.run \
  --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$each" \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:${PORT:-29500}" --rdzv-conf join_timeout=900 \
  -m pipeline "$@"
