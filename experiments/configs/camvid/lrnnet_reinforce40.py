"""LRNNet on CamVid in blocks of 128 pixels, 40% of them high.

    python -m segblocks_jax.experiments.camvid --config=experiments/configs/camvid/lrnnet_reinforce40.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: one GPU. Time and result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """The recipe of docs/lrnnet.md at CamVid's size, with a policy."""
    return config(
        {
            "name": "camvid_lrnnet_reinforce40",
            "data": {"dataset": "camvid", "crop": (384, 384)},
            "model": {"name": "lrnnet"},
            "policy": {"name": "reinforce", "reward": "loss", "block_size": 128, "target": 0.4},
            "optim": {"batch_size": 8, "steps": 16_000, "learning_rate": 1e-3},
            "loop": {"eval_every": 1_000, "checkpoint_every": 1_000},
        }
    )
