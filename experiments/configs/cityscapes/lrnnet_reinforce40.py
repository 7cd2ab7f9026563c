"""LRNNet on Cityscapes in blocks of 128 pixels, 40% of them high.

    python -m segblocks_jax.experiments.cityscapes --config=experiments/configs/cityscapes/lrnnet_reinforce40.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: one GPU with 16 GB or more. Time and result here: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """The recipe of docs/lrnnet.md with a policy."""
    return config(
        {
            "name": "cityscapes_lrnnet_reinforce40",
            "data": {"dataset": "cityscapes", "crop": (1024, 1024), "workers": 8},
            "model": {"name": "lrnnet"},
            "policy": {"name": "reinforce", "reward": "loss", "block_size": 128, "target": 0.4},
            "optim": {"batch_size": 8, "steps": 350 * 2975 // 8, "learning_rate": 1e-3},
            "loop": {"eval_every": 3_719, "checkpoint_every": 3_719},
        }
    )
