"""DynConv's ResNet-101 on ImageNet, as published, at a budget of 0.3.

    python -m segblocks_jax.experiments.imagenet --config=experiments/configs/imagenet/dynconv_resnet101.py \
        --data_dir=FOLDER --workdir=DIR [--config.masks.target=0.5]

Hardware: 8 GPUs. Result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config

_STEPS = 1_281_167 // 64  # Of an epoch.


def get_config() -> ml_collections.ConfigDict:
    """SGD 0.025 with batches of 64, a tenth after 30, 60 and 90 of 100 epochs; temperature 5, then 2.5, then 1."""
    return config(
        {
            "system": "dynconv",
            "name": "imagenet_dynconv_resnet101",
            "data": {
                "dataset": "imagenet",
                "eval_split": "val",
                "crop": (224, 224),
                "augmentation": "resized_crop",
                "resize": 256,
                "workers": 8,
            },
            "model": {"name": "dynconv_resnet101"},
            "masks": {
                "target": 0.3,
                "temperature": (5.0, 2.5, 1.0),
                "temperature_milestones": (0.3, 0.6),
            },
            "optim": {
                "batch_size": 64,
                "steps": 100 * _STEPS,
                "learning_rate": 0.025,
                "weight_decay": 1e-4,
                "milestones": (0.3, 0.6, 0.9),
            },
            "loop": {"eval_every": _STEPS, "checkpoint_every": _STEPS, "log_every": 100},
        }
    )
