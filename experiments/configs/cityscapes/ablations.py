"""The base of every ablation on the built-in street scenes: see `experiments/ablations`.

    python -m segblocks_jax.experiments.cityscapes --config=experiments/configs/cityscapes/ablations.py \
        --workdir=DIR

Hardware: two CPU cores. Time: all sweeps, 23 runs, in 27 minutes. Result: too short a training for conclusions.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """An eighth of the channels, small scenes, a short schedule: all sweeps in well under an hour."""
    return config(
        {
            "name": "street_scenes_ablations",
            "data": {
                "dataset": "street_scenes",
                "crop": (128, 128),
                "scale": (0.5, 1.5),
                "scenes": (100, 20),
                "scene_size": (256, 512),
            },
            "model": {"name": "swiftnet_rn18", "width": 8, "features": 24},
            "policy": {"reward": "loss", "block_size": 64, "target": 0.4, "bucket_step": 0.25},
            "optim": {"batch_size": 8, "steps": 120, "learning_rate": 3e-3},
            "loop": {
                "eval_every": 120,
                "checkpoint_every": 60,
                "log_every": 10,
                "keep_checkpoints": 1,
            },
        }
    )
