"""SwiftNet-EffLite1 on your own data (docs/data.md) from ImageNet weights, in blocks of 64, 40% high.

    python -m segblocks_jax.experiments.custom --config=experiments/configs/custom/efflite1_reinforce40.py \
        --data_dir=FOLDER --workdir=DIR

As efflite1_static.py beside it; crops are whole blocks. For pictures of several megapixels:
`--config.policy.block_size=128`.
Hardware: two CPU cores or one GPU. Time and result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """Small crops and 1,500 steps, to fit a CPU."""
    return config(
        {
            "name": "custom_efflite1_reinforce40",
            "data": {"dataset": "folders", "crop": (256, 256)},
            "model": {
                "name": "swiftnet_efflite1",
                "pretrained": "efficientnet-lite1",
                "padding": "same_tf",
            },
            "policy": {"name": "reinforce", "features": 16, "block_size": 64, "target": 0.4},
            "optim": {"batch_size": 8, "steps": 1_500, "learning_rate": 8e-4},
            "loop": {"eval_every": 500, "checkpoint_every": 100, "log_every": 20},
        }
    )
