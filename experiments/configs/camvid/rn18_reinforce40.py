"""SwiftNet-RN18 on CamVid in blocks of 64 pixels, 40% of them high.

    python -m segblocks_jax.experiments.camvid --config=experiments/configs/camvid/rn18_reinforce40.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: one GPU. Time and result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """The published recipe at CamVid's size; there is no published configuration for CamVid."""
    return config(
        {
            "name": "camvid_rn18_reinforce40",
            "data": {"dataset": "camvid", "crop": (384, 384)},
            "model": {"name": "swiftnet_rn18"},
            "policy": {"name": "reinforce", "reward": "loss", "block_size": 64, "target": 0.4},
            "optim": {"batch_size": 8, "steps": 16_000, "learning_rate": 4e-4},
            "loop": {"eval_every": 1_000, "checkpoint_every": 1_000},
        }
    )
