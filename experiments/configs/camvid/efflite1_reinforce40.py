"""SwiftNet-EffLite1 on CamVid from ImageNet weights, in blocks of 64, 40% high.

    python -m segblocks_jax.experiments.camvid --config=experiments/configs/camvid/efflite1_reinforce40.py \
        --data_dir=FOLDER --workdir=DIR

Base of the sweep `experiments/ablations/trained_claim.py`; efflite1_phases.py trains a dense network first.
Hardware: two CPU cores. Needs `pip install 'segblocks-jax[train,pretrained]'`. Time, result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """The recipe of efflite1_phases.py."""
    return config(
        {
            "name": "camvid_efflite1",
            "data": {"dataset": "camvid", "crop": (256, 256)},
            "model": {
                "name": "swiftnet_efflite1",
                "pretrained": "efficientnet-lite1",
                "padding": "same_tf",
            },
            "policy": {"name": "reinforce", "features": 16, "block_size": 64, "target": 0.4},
            "optim": {
                "batch_size": 8,
                "steps": 1_500,
                "learning_rate": 1e-3,
                "backbone_multiplier": 0.5,
                "loss": "bootstrapped",
                "ema": 0.99,
            },
            "loop": {
                "eval_every": 500,
                "checkpoint_every": 100,
                "log_every": 20,
                "keep_checkpoints": 1,
                "gain_images": 20,
            },
        }
    )
