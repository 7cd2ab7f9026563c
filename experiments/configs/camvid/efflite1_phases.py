"""SwiftNet-EffLite1 on CamVid from ImageNet weights: a dense network first, then blocks at several targets from it.

    python -m segblocks_jax.experiments.camvid --config=experiments/configs/camvid/efflite1_phases.py \
        --data_dir=FOLDER --workdir=DIR

The same command goes on where it was stopped. Other modes take `--phase=NAME`. See docs/training.md, "Phases".

Hardware: two CPU cores. Needs `pip install 'segblocks-jax[train,pretrained]'`. Phase static: 70.7% mIoU in 95
minutes, beside other work (two cores of a Xeon at 2.5 GHz). The others: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config

TARGETS = (0.2, 0.4, 0.6)


def get_config() -> ml_collections.ConfigDict:
    """Small crops and short schedules, to fit a CPU."""
    blocks = {
        f"target{round(100 * target)}": {
            "after": "static",
            "policy": {"name": "reinforce", "features": 16, "target": target},
            "optim": {"steps": 800, "learning_rate": 4e-4},
        }
        for target in TARGETS
    }
    return config(
        {
            "name": "camvid_efflite1_phases",
            "data": {"dataset": "camvid", "crop": (256, 256)},
            "model": {
                "name": "swiftnet_efflite1",
                "pretrained": "efficientnet-lite1",
                "padding": "same_tf",
            },
            "policy": {"name": "static", "block_size": 64},
            "optim": {
                "batch_size": 8,
                "steps": 2_200,
                "learning_rate": 1e-3,
                "backbone_multiplier": 0.5,
                "loss": "bootstrapped",
                "ema": 0.99,
            },
            "loop": {
                "eval_every": 400,
                "checkpoint_every": 100,
                "log_every": 20,
                "gain_images": 20,
            },
            "phases": {"static": {}, **blocks},
        }
    )
