"""SwiftNet-RN18 in blocks on the coarse labels of Cityscapes, to continue from on the fine ones.

    python -m segblocks_jax.experiments.cityscapes --config=experiments/configs/cityscapes/rn18_reinforce_coarse.py \
        --data_dir=FOLDER --workdir=DIR

FOLDER holds the fine and the coarse labels and the images of train_extra (`python -m segblocks_jax.data prepare
cityscapes_coarse` says what is missing). Evaluates on the fine labels of val.

Hardware: one GPU with 16 GB or more. Time and result: not measured; there is no published result.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """20 epochs of 22,973 images in batches of 8, crops of 1024 pixels, 40% of blocks high."""
    return config(
        {
            "name": "cityscapes_rn18_reinforce_coarse",
            "data": {
                "dataset": "cityscapes_coarse",
                "train_split": "train+train_extra",
                "crop": (1024, 1024),
                "workers": 8,
            },
            "model": {"name": "swiftnet_rn18"},
            "policy": {"name": "reinforce", "reward": "loss", "block_size": 128, "target": 0.4},
            "optim": {"batch_size": 8, "steps": 20 * 22_973 // 8, "learning_rate": 4e-4},
            "loop": {"eval_every": 5_000, "checkpoint_every": 5_000},
        }
    )
