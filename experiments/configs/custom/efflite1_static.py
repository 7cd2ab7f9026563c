"""SwiftNet-EffLite1 on your own data (docs/data.md) from ImageNet weights, dense.

    python -m segblocks_jax.experiments.custom --config=experiments/configs/custom/efflite1_static.py \
        --data_dir=FOLDER --workdir=DIR

FOLDER holds dataset.yaml. `--config.data.crop="(384, 384)"` and `--config.data.scale="(0.75, 1.5)"` choose the
crops. Hardware: two CPU cores or one GPU. Needs `pip install 'segblocks-jax[train,pretrained]'`, or
`--config.model.pretrained=None` for a start from scratch. Time and result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """Small crops and 1,000 steps, to fit a CPU."""
    return config(
        {
            "name": "custom_efflite1_static",
            "data": {"dataset": "folders", "crop": (256, 256)},
            "model": {
                "name": "swiftnet_efflite1",
                "pretrained": "efficientnet-lite1",
                "padding": "same_tf",
            },
            "policy": {"name": "static", "block_size": 64},
            "optim": {"batch_size": 8, "steps": 1_000, "learning_rate": 8e-4},
            "loop": {"eval_every": 500, "checkpoint_every": 100, "log_every": 20},
        }
    )
