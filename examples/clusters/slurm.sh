#!/usr/bin/env bash
# Train one network on all nodes of a Slurm job:  sbatch examples/clusters/slurm.sh
# Every node must see the data and the output folder under the same path.
# With --checkpoint-every "10 min" --resume, SIGTERM makes a last checkpoint, and the same line submitted again goes on from it.
#SBATCH --job-name=kronsgd
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120                 # two minutes before the time is up, to the launchers, which hand it on
#SBATCH --requeue                         # where a preempted job is to start again by itself
set -euo pipefail

RANKS_PER_NODE=${RANKS_PER_NODE:-4}      # each gets its share of the node's cores; nodes × this: best 2, 4, 8 … 64
PORT=${PORT:-29500}
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-110}   # seconds; older PyTorch: 30
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-}   # the network that joins the nodes, such as ib0, where a node has several
[ -n "$GLOO_SOCKET_IFNAME" ] || unset GLOO_SOCKET_IFNAME
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# One launcher on each node, which reads its own number there. Whatever stands behind this script's name goes to kronsgd train.
srun bash -c "exec torchrun --nnodes $SLURM_NNODES --node-rank \$SLURM_NODEID --nproc-per-node $RANKS_PER_NODE \
    --master-addr $FIRST --master-port $PORT -m kronsgd train \"\$@\"" kronsgd "$@"
