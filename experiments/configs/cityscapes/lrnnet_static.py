"""LRNNet on Cityscapes, dense, from scratch: the network as docs/lrnnet.md reads it.

    python -m segblocks_jax.experiments.cityscapes --config=experiments/configs/cityscapes/lrnnet_static.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: one GPU with 16 GB or more. Time and result here: not measured.
Published (test set, fine labels, no pretraining, at 512 x 1024): 72.2 mIoU. These images have 1024 x 2048.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """The recipe of this library's SwiftNets; the paper's is not known."""
    return config(
        {
            "name": "cityscapes_lrnnet_static",
            "data": {"dataset": "cityscapes", "crop": (1024, 1024), "workers": 8},
            "model": {"name": "lrnnet"},
            "policy": {"name": "static"},
            "optim": {"batch_size": 8, "steps": 350 * 2975 // 8, "learning_rate": 1e-3},
            "loop": {"eval_every": 3_719, "checkpoint_every": 3_719},
        }
    )
