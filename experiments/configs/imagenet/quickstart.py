"""A small ResNet on procedural shapes with ImageNet's crops: no download, minutes on a CPU.

    python -m segblocks_jax.experiments.imagenet --config=experiments/configs/imagenet/quickstart.py --workdir=DIR

Hardware: two CPU cores. Time and result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """Shapes of 96 x 128 pixels, seen at 64 x 64."""
    return config(
        {
            "system": "classifier",
            "name": "shapes_imagenet_quickstart",
            "data": {
                "dataset": "shapes",
                "shape_size": (96, 128),
                "crop": (64, 64),
                "augmentation": "resized_crop",
                "scale": (0.5, 1.0),
                "resize": 72,
            },
            "model": {"name": "resnet18", "width": 8},
            "optim": {"batch_size": 64, "steps": 300, "learning_rate": 0.05},
            "loop": {"eval_every": 100, "checkpoint_every": 100, "log_every": 20},
        }
    )
