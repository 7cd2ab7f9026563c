"""A small LRNNet on the built-in street scenes, in blocks or dense.

    python -m segblocks_jax.experiments.cityscapes --config=experiments/configs/cityscapes/lrnnet_quickstart.py \
        --workdir=DIR [--config.policy.name=static]

Hardware: two CPU cores. Time and result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """Half the channels, smaller dilations, 256 x 512 images in blocks of 64 pixels, 40% of blocks high."""
    return config(
        {
            "name": "street_scenes_lrnnet_quickstart",
            "data": {
                "dataset": "street_scenes",
                "crop": (128, 256),
                "scale": (0.5, 1.5),
                "scenes": (200, 40),
                "scene_size": (256, 512),
            },
            "model": {
                "name": "lrnnet",
                "width": 32,
                "features": 32,
                "dilations": (1, 2, 3, 4, 2, 3, 4, 4),
            },
            "policy": {
                "name": "reinforce",
                "block_size": 64,
                "target": 0.4,
                "bucket_step": 0.125,
            },
            "optim": {"batch_size": 8, "steps": 600, "learning_rate": 2e-3},
            "loop": {"eval_every": 600, "checkpoint_every": 600, "log_every": 20},
        }
    )
