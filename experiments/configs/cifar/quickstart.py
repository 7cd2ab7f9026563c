"""A small ResNet on procedural shapes: no download, minutes on a CPU.

    python -m segblocks_jax.experiments.cifar --config=experiments/configs/cifar/quickstart.py --workdir=DIR

Hardware: two CPU cores. Time and result: not measured yet.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """ResNet-18 with an eighth of the channels, 300 steps."""
    return config(
        {
            "system": "classifier",
            "name": "shapes_quickstart",
            "data": {"dataset": "shapes"},
            "model": {"name": "resnet18", "width": 8},
            "optim": {"batch_size": 64, "steps": 300, "learning_rate": 0.05},
            "loop": {"eval_every": 100, "checkpoint_every": 100, "log_every": 20},
        }
    )
