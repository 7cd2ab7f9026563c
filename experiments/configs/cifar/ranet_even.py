"""RANet on CIFAR-10: the network of four sub-networks, whose blocks are alike, with the authors' recipe.

    python -m segblocks_jax.experiments.cifar --config=experiments/configs/cifar/ranet_even.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: a GPU. Published top-1: 91.3 to 93.7% from the first exit to the last, read from the paper's figure.
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
            "name": "cifar10_ranet_even",
            "data": {"dataset": "cifar10", "eval_split": "test", "holdout": _HOLDOUT},
            "model": {"name": "ranet_cifar_even"},
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
