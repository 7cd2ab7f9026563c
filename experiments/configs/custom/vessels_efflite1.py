"""SwiftNet-EffLite1 on retinal vessels (the DRIVE set as data set `folders`) from ImageNet weights, 40% high.

    python -m segblocks_jax.experiments.custom --config=experiments/configs/custom/vessels_efflite1.py \
        --data_dir=FOLDER --workdir=DIR

Base of the sweep `experiments/ablations/trained_claim.py`. FOLDER holds dataset.yaml (docs/data.md).
Hardware: two CPU cores. Needs `pip install 'segblocks-jax[train,pretrained]'`. Time, result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """20 pictures of 565 x 584 to train on, so 300 steps."""
    return config(
        {
            "name": "vessels_efflite1",
            "data": {"dataset": "folders", "crop": (256, 256), "scale": (0.7, 1.3)},
            "model": {
                "name": "swiftnet_efflite1",
                "pretrained": "efficientnet-lite1",
                "padding": "same_tf",
            },
            "policy": {"name": "reinforce", "features": 16, "block_size": 64, "target": 0.4},
            "optim": {
                "batch_size": 8,
                "steps": 300,
                "learning_rate": 1e-3,
                "backbone_multiplier": 0.5,
                "loss": "bootstrapped",
                "ema": 0.98,
            },
            "loop": {
                "eval_every": 150,
                "checkpoint_every": 50,
                "log_every": 20,
                "keep_checkpoints": 1,
                "gain_images": 20,
            },
        }
    )
