"""LRNNet on CamVid, from scratch, dense: the baseline of `lrnnet_reinforce40_cpu.py`.

    python -m segblocks_jax.experiments.camvid --config=experiments/configs/camvid/lrnnet_static_cpu.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: two CPU cores. Result: README, table "CamVid". Time: 86 minutes on one core, the other one busy.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """The budget of `rn18_static_cpu.py`: small crops and a short schedule, to fit a CPU."""
    return config(
        {
            "name": "camvid_lrnnet_static_cpu",
            "data": {"dataset": "camvid", "crop": (256, 256)},
            "model": {"name": "lrnnet", "dilations": (1, 2, 3, 4, 2, 3, 4, 4), "dropout": 0.0},
            "policy": {"name": "static", "block_size": 64},
            "optim": {"batch_size": 8, "steps": 1_500, "learning_rate": 1e-3},
            "loop": {"eval_every": 500, "checkpoint_every": 500, "log_every": 20},
        }
    )
