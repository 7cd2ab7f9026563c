"""SwiftNet-RN18 on Cityscapes, 20% of blocks high: the published recipe.

    python -m segblocks_jax.experiments.cityscapes --config=experiments/configs/cityscapes/rn18_reinforce20.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: one GPU with 16 GB or more. Time and result here: not measured.
Published (ImageNet backbone): 76.1 mIoU, 48.4 GMACs.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """350 epochs of 2975 images in batches of 8, crops of 1024 pixels."""
    return config(
        {
            "name": "cityscapes_rn18_reinforce20",
            "data": {"dataset": "cityscapes", "crop": (1024, 1024), "workers": 8},
            "model": {"name": "swiftnet_rn18"},
            "policy": {"name": "reinforce", "reward": "loss", "block_size": 128, "target": 0.2},
            "optim": {"batch_size": 8, "steps": 350 * 2975 // 8, "learning_rate": 4e-4},
            "loop": {"eval_every": 3_719, "checkpoint_every": 3_719},
        }
    )
