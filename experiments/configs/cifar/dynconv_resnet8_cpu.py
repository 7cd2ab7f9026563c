"""DynConv's ResNet-8 on CIFAR-10 in the time of two CPU cores: five epochs.

    python -m segblocks_jax.experiments.cifar --config=experiments/configs/cifar/dynconv_resnet8_cpu.py \
        --data_dir=FOLDER --workdir=DIR [--config.masks.target=0.3]

Hardware: two CPU cores. Time and result: docs/dynconv.md.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """SGD with a cosine schedule; the noise ends at half of the steps, so that masks settle after it."""
    return config(
        {
            "system": "dynconv",
            "name": "cifar10_dynconv_resnet8_cpu",
            "data": {"dataset": "cifar10", "eval_split": "test"},
            "model": {"name": "dynconv_resnet8"},
            "masks": {"target": 0.5, "noise_until": 0.5},
            "optim": {
                "batch_size": 128,
                "steps": 2_000,
                "learning_rate": 0.1,
                "weight_decay": 5e-4,
                "schedule": "cosine",
                "warmup": 50,
            },
            "loop": {"eval_every": 500, "checkpoint_every": 250, "log_every": 50},
        }
    )
