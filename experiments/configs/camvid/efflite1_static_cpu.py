"""SwiftNet-EffLite1 on CamVid from ImageNet weights, dense, in a short schedule.

    python -m segblocks_jax.experiments.camvid --config=experiments/configs/camvid/efflite1_static_cpu.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: two CPU cores. Needs `pip install 'segblocks-jax[train,pretrained]'`, or
`--config.model.pretrained=None` for a start from scratch. Result: 63.0% mIoU on val, see docs/training.md,
"Pretrained weights".
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """Small crops and 1,000 steps, to fit a CPU."""
    return config(
        {
            "name": "camvid_efflite1_static_cpu",
            "data": {"dataset": "camvid", "crop": (256, 256)},
            "model": {
                "name": "swiftnet_efflite1",
                "pretrained": "efficientnet-lite1",
                "padding": "same_tf",
            },
            "policy": {"name": "static", "block_size": 64},
            "optim": {"batch_size": 8, "steps": 1_000, "learning_rate": 8e-4},
            "loop": {"eval_every": 1_000, "checkpoint_every": 100, "log_every": 20},
        }
    )
