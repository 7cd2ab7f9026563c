#!/bin/bash
# Trains under Slurm, and asks for another turn when the time is up:
#
#   sbatch --nodes=2 --gpus-per-node=8 --time=12:00:00 experiments/slurm/train.sh \
#       python -m segblocks_jax.experiments.cityscapes --distributed --config=FILE --workdir=DIR
#
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
# USR1 comes 300 s before the end, to this shell alone (B:). Give more where an evaluation takes longer.
# TERM, which scancel sends, stops the training in the same way and asks for no other turn.

stop() {
    again=$1 signaled=yes
    kill -TERM "$!"
}
trap 'stop yes' USR1
trap 'stop no' TERM

again=no signaled=yes
srun "$@" &
while [[ $signaled ]]; do # A trapped signal ends `wait` early, with the signal's status.
    signaled=
    wait "$!"
    status=$?
done

# 143: stopped by a signal, with everything saved.
if [[ $again = yes && $status = 143 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
