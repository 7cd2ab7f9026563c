"""SwiftNet-EffLite1 on CamVid from the model that ships: 300 more steps, in blocks of 64, 40% high.

    python -m segblocks_jax.experiments.camvid --config=experiments/configs/camvid/efflite1_shipped.py \
        --data_dir=FOLDER --workdir=DIR

The base of the preset `camvid_shipped` of sweeps. The network had 2,200 dense steps and 800 in blocks; policies start
fresh.
Hardware: two CPU cores. Result and time: docs/ablations.md, "The claim from the model that ships".
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """The recipe of efflite1_phases.py after its dense steps, shorter."""
    return config(
        {
            "name": "camvid_efflite1_shipped",
            "data": {"dataset": "camvid", "crop": (256, 256)},
            "model": {
                "name": "swiftnet_efflite1",
                "init_from": "camvid_efflite1",
                "padding": "same_tf",
            },
            "policy": {"name": "reinforce", "features": 16, "block_size": 64, "target": 0.4},
            "optim": {
                "batch_size": 8,
                "steps": 300,
                "learning_rate": 4e-4,
                "backbone_multiplier": 0.5,
                "loss": "bootstrapped",
                "ema": 0.99,
            },
            "loop": {
                "eval_every": 300,
                "checkpoint_every": 100,
                "log_every": 20,
                "keep_checkpoints": 1,
            },
        }
    )
