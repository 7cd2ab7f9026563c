"""SwiftNet-RN50 in blocks on Mapillary Vistas v1.2, 65 evaluated classes.

    python -m segblocks_jax.experiments.mapillary --config=experiments/configs/mapillary/rn50_reinforce40.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: one GPU with 40 GB or more. Time and result here: not measured.
Published (ImageNet backbone, policy target 0.4): 39.7 mIoU.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """The Cityscapes recipe for 60 epochs of 18,000 images; evaluation at full size, in 8 padded sizes."""
    return config(
        {
            "name": "mapillary_rn50_reinforce40",
            "data": {"dataset": "mapillary", "crop": (1024, 1024), "workers": 8},
            "model": {"name": "swiftnet_rn50"},
            "policy": {"name": "reinforce", "reward": "loss", "block_size": 128, "target": 0.4},
            "optim": {"batch_size": 8, "steps": 60 * 18_000 // 8, "learning_rate": 4e-4},
            "loop": {"eval_every": 11_250, "checkpoint_every": 11_250, "eval_sizes": 8},
        }
    )
