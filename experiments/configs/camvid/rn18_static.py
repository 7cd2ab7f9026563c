"""SwiftNet-RN18 on CamVid, dense: the baseline of `rn18_reinforce40.py`.

    python -m segblocks_jax.experiments.camvid --config=experiments/configs/camvid/rn18_static.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: one GPU. Time and result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """The published recipe at CamVid's size; there is no published configuration for CamVid."""
    return config(
        {
            "name": "camvid_rn18_static",
            "data": {"dataset": "camvid", "crop": (384, 384)},
            "model": {"name": "swiftnet_rn18"},
            "policy": {"name": "static", "block_size": 64},
            "optim": {"batch_size": 8, "steps": 16_000, "learning_rate": 4e-4},
            "loop": {"eval_every": 1_000, "checkpoint_every": 1_000},
        }
    )
