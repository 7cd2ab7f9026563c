"""RANet on CIFAR-10: the network of three sub-networks, whose blocks grow, with the authors' recipe.

    python -m segblocks_jax.experiments.cifar --config=experiments/configs/cifar/ranet_lg.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: a GPU. Published top-1: none is given.
Result and time: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config

_HOLDOUT = 5_000  # Thresholds are fitted on these.
_STEPS = (50_000 - _HOLDOUT) // 64  # Of an epoch.


def get_config() -> ml_collections.ConfigDict:
    """SGD 0.1 with batches of 64 over 300 epochs, a tenth after half and three quarters."""
    return config(
        {
            "system": "ranet",
            "name": "cifar10_ranet_lg",
            "data": {"dataset": "cifar10", "eval_split": "test", "holdout": _HOLDOUT},
            "model": {"name": "ranet_cifar_lg"},
            "optim": {
                "batch_size": 64,
                "steps": 300 * _STEPS,
                "learning_rate": 0.1,
                "weight_decay": 1e-4,
                "milestones": (0.5, 0.75),
            },
            "loop": {"eval_every": 10 * _STEPS, "checkpoint_every": 10 * _STEPS},
        }
    )
