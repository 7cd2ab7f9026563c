"""RANet on ImageNet: the network of the authors' README.

    python -m segblocks_jax.experiments.imagenet --config=experiments/configs/imagenet/ranet_readme.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: 8 GPUs. Result and time: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config

_HOLDOUT = 50_000  # Thresholds are fitted on these.
_STEPS = (1_281_167 - _HOLDOUT) // 256  # Of an epoch.


def get_config() -> ml_collections.ConfigDict:
    """SGD 0.1 with batches of 256 over 90 epochs, a tenth after 30 and 60."""
    return config(
        {
            "system": "ranet",
            "name": "imagenet_ranet_readme",
            "data": {
                "dataset": "imagenet",
                "eval_split": "val",
                "holdout": _HOLDOUT,
                "crop": (224, 224),
                "augmentation": "resized_crop",
                "resize": 256,
                "workers": 8,
            },
            "model": {"name": "ranet_imagenet_readme"},
            "optim": {
                "batch_size": 256,
                "steps": 90 * _STEPS,
                "learning_rate": 0.1,
                "weight_decay": 1e-4,
                "milestones": (1 / 3, 2 / 3),
            },
            "loop": {"eval_every": _STEPS, "checkpoint_every": _STEPS, "log_every": 100},
        }
    )
