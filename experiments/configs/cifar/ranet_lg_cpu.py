"""RANet on CIFAR-10 in the time of two CPU cores: the smaller published network, a short schedule.

    python -m segblocks_jax.experiments.cifar --config=experiments/configs/cifar/ranet_lg_cpu.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: two CPU cores, 116 minutes beside other work. Result: docs/ranet.md.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """SGD with a cosine schedule; larger batches than published, since steps are what costs."""
    return config(
        {
            "system": "ranet",
            "name": "cifar10_ranet_lg_cpu",
            "data": {"dataset": "cifar10", "eval_split": "test", "holdout": 5_000},
            "model": {"name": "ranet_cifar_lg"},
            "optim": {
                "batch_size": 64,
                "steps": 3_000,
                "learning_rate": 0.1,
                "weight_decay": 1e-4,
                "schedule": "cosine",
                "warmup": 100,
            },
            "loop": {"eval_every": 1_000, "checkpoint_every": 250, "log_every": 25},
        }
    )
