"""A small RANet on procedural shapes: no download, minutes on a CPU.

    python -m segblocks_jax.experiments.cifar --config=experiments/configs/cifar/ranet_quickstart.py --workdir=DIR

Hardware: two CPU cores. Time and result: not measured yet.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """Three sub-networks with four exits, 300 steps."""
    return config(
        {
            "system": "ranet",
            "name": "shapes_ranet",
            "data": {"dataset": "shapes", "holdout": 400},
            "model": {
                "name": "ranet_cifar_lg",
                "scales": (1, 2, 3),
                "growth_factors": (2, 1, 1),
                "bottleneck_factors": (2, 1, 1),
                "channels": 8,
                "block_step": 1,
            },
            "optim": {"batch_size": 64, "steps": 300, "learning_rate": 0.05},
            "loop": {"eval_every": 100, "checkpoint_every": 100, "log_every": 20},
        }
    )
