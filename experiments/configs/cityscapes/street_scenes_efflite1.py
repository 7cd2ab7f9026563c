"""SwiftNet-EffLite1 on the built-in street scenes at 512 x 1024: dense from ImageNet weights, then blocks of 64.

    python -m segblocks_jax.experiments.cityscapes --config=experiments/configs/cityscapes/street_scenes_efflite1.py \
        --workdir=DIR

Trains the model street_scenes_efflite1 that comes with the package: phase target40 (docs/training.md, "Phases").
Hardware: two CPU cores. Needs `pip install 'segblocks-jax[train,pretrained]'`. Time: 72 and 28 minutes beside other
work (two cores of a Xeon at 2.5 GHz). Result: README, "Street scenes".
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """Crops near the scale of the scenes: poles and signs need the resolution."""
    blocks = {
        "after": "static",
        "policy": {"name": "reinforce", "features": 16},
        "optim": {"steps": 400, "learning_rate": 4e-4},
    }
    return config(
        {
            "name": "street_scenes_efflite1",
            "data": {
                "dataset": "street_scenes",
                "crop": (256, 512),
                "scale": (0.7, 1.3),
                "scenes": (300, 50),
                "scene_size": (512, 1024),
            },
            "model": {
                "name": "swiftnet_efflite1",
                "pretrained": "efficientnet-lite1",
                "padding": "same_tf",
            },
            "policy": {"name": "static", "block_size": 64, "target": 0.4},
            "optim": {
                "batch_size": 4,
                "steps": 900,
                "learning_rate": 1e-3,
                "backbone_multiplier": 0.5,
                "loss": "bootstrapped",
                "ema": 0.99,
            },
            "loop": {
                "eval_every": 450,
                "checkpoint_every": 100,
                "log_every": 20,
                "keep_checkpoints": 1,
                "gain_images": 20,
            },
            "phases": {"static": {}, "target40": blocks},
        }
    )
