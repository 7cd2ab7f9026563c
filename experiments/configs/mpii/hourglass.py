"""The 4-stack hourglass on MPII with an eighth of the operations, as published for DynConv.

    python -m segblocks_jax.experiments.mpii --config=experiments/configs/mpii/hourglass.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: a GPU. Result: not measured. Published with colors as blue, green, red: `--config.data.bgr=True`.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config

_STEPS = 22_246 // 6  # Of an epoch of the training people, all with the 16 joints' annotation.


def get_config() -> ml_collections.ConfigDict:
    """Adam 2.5e-4 with batches of 6 over 100 epochs, a tenth from epochs 59 and 89; no noise from epoch 80."""
    return config(
        {
            "system": "dynconv_pose",
            "name": "mpii_hourglass",
            "data": {"dataset": "mpii", "outside": "hide"},
            "optim": {"steps": 100 * _STEPS},
            "loop": {"eval_every": 5 * _STEPS, "checkpoint_every": _STEPS},
        }
    )
