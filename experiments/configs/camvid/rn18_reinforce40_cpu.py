"""SwiftNet-RN18 of half width on CamVid, from scratch, in blocks of 64 pixels, 40% of them high.

    python -m segblocks_jax.experiments.camvid --config=experiments/configs/camvid/rn18_reinforce40_cpu.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: two CPU cores. Result: README, table "CamVid". Time: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """Half the channels, small crops and a short schedule, to fit a CPU."""
    return config(
        {
            "name": "camvid_rn18_reinforce40_cpu",
            "data": {"dataset": "camvid", "crop": (256, 256)},
            "model": {"name": "swiftnet_rn18", "width": 32, "features": 64},
            "policy": {"name": "reinforce", "reward": "loss", "block_size": 64, "target": 0.4},
            "optim": {"batch_size": 8, "steps": 1_500, "learning_rate": 1e-3},
            "loop": {"eval_every": 500, "checkpoint_every": 500, "log_every": 20},
        }
    )
