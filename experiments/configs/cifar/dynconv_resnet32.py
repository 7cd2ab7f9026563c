"""DynConv's ResNet-32 on CIFAR-10, as published, at a budget of 0.7.

    python -m segblocks_jax.experiments.cifar --config=experiments/configs/cifar/dynconv_resnet32.py \
        --data_dir=FOLDER --workdir=DIR [--config.masks.target=0.5]

Hardware: a GPU. Result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config

_STEPS = 50_000 // 256  # Of an epoch.


def get_config() -> ml_collections.ConfigDict:
    """SGD 0.1 with batches of 256 over 350 epochs, a tenth after 150 and 250; noise until epoch 280."""
    return config(
        {
            "system": "dynconv",
            "name": "cifar10_dynconv_resnet32",
            "data": {"dataset": "cifar10", "eval_split": "test"},
            "model": {"name": "dynconv_resnet32"},
            "masks": {"target": 0.7},
            "optim": {
                "batch_size": 256,
                "steps": 350 * _STEPS,
                "learning_rate": 0.1,
                "weight_decay": 5e-4,
                "milestones": (150 / 350, 250 / 350),
            },
            "loop": {"eval_every": 10 * _STEPS, "checkpoint_every": 10 * _STEPS},
        }
    )
