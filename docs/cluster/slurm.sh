#!/bin/bash
# Two machines with 8 GPUs each. One torchrun per machine, which starts a process per GPU:
#   sbatch docs/cluster/slurm.sh configs/qwen3-8b-qlora.yaml dataset=data.json
#SBATCH --job-name=qlora-fast
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
# Two minutes before the time limit the processes are asked to stop, and write a checkpoint.
#SBATCH --signal=TERM@120
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)

# A process that fails is started again with all others, three times. A job that is started again (sbatch with the same line,
# or by --requeue) continues: resume_from_checkpoint=auto.
srun torchrun \
  --nnodes "$SLURM_NNODES" \
  --nproc-per-node "${SLURM_GPUS_ON_NODE:-8}" \
  --rdzv-backend c10d \
  --rdzv-id "$SLURM_JOB_ID" \
  --rdzv-endpoint "$first:29500" \
  --max-restarts 3 \
  --shutdown-timeout 90 \
  -m qlora_fast.cli train "$@" resume_from_checkpoint=auto
