"""A small SwiftNet on the built-in street scenes: the whole system in minutes.

    python -m segblocks_jax.experiments.cityscapes --config=experiments/configs/cityscapes/quickstart.py \
        --workdir=DIR [--config.policy.name=static]

Hardware: two CPU cores. Result of an earlier version, whose policy had the authors' reward
(experiments/results/demo_segblocks.json, demo_static.json): 25.2% mIoU at 39.7% high blocks, static 27.5%.
At a quarter of the width blocks save no time.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """A quarter of the channels, 256 x 512 images, 40% of blocks high."""
    return config(
        {
            "name": "street_scenes_quickstart",
            "data": {
                "dataset": "street_scenes",
                "crop": (128, 256),
                "scale": (0.5, 1.5),
                "scenes": (200, 40),
                "scene_size": (256, 512),
            },
            "model": {"name": "swiftnet_rn18", "width": 16, "features": 32},
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
