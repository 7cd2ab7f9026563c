"""DynConv's ResNet-8 on procedural shapes at half of the operations: no download, minutes on a CPU.

    python -m segblocks_jax.experiments.cifar --config=experiments/configs/cifar/dynconv_quickstart.py --workdir=DIR

Hardware: two CPU cores. Time and result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """Shapes of 32 x 32 pixels."""
    return config(
        {
            "system": "dynconv",
            "name": "shapes_dynconv_quickstart",
            "data": {"dataset": "shapes"},
            "model": {"name": "dynconv_resnet8"},
            "masks": {"target": 0.5},
            "optim": {"batch_size": 64, "steps": 600, "learning_rate": 0.1, "weight_decay": 5e-4},
            "loop": {"eval_every": 200, "checkpoint_every": 200, "log_every": 20},
        }
    )
