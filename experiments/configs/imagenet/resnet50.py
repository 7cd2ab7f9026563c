"""ResNet-50 on ImageNet, dense: the usual recipe of 90 epochs.

    python -m segblocks_jax.experiments.imagenet --config=experiments/configs/imagenet/resnet50.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: 8 GPUs. Result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config

_STEPS = 1_281_167 // 256  # Of an epoch.


def get_config() -> ml_collections.ConfigDict:
    """SGD 0.1 with batches of 256, a tenth after 30 and 60 epochs."""
    return config(
        {
            "system": "classifier",
            "name": "imagenet_resnet50",
            "data": {
                "dataset": "imagenet",
                "eval_split": "val",
                "crop": (224, 224),
                "augmentation": "resized_crop",
                "resize": 256,
                "workers": 8,
            },
            "model": {"name": "resnet50"},
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
