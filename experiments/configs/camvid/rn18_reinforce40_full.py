"""SwiftNet-RN18 in blocks on CamVid at its original 960x720, 11 classes.

    python -m segblocks_jax.experiments.camvid --config=experiments/configs/camvid/rn18_reinforce40_full.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: one GPU. Time and result: not measured.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """The published recipe at CamVid's size; there is no published configuration for CamVid."""
    return config(
        {
            "name": "camvid_full_rn18_reinforce40",
            "data": {"dataset": "camvid_full", "crop": (768, 768), "workers": 4},
            "model": {"name": "swiftnet_rn18"},
            "policy": {"name": "reinforce", "reward": "loss", "block_size": 128, "target": 0.4},
            "optim": {"batch_size": 8, "steps": 16_000, "learning_rate": 4e-4},
            "loop": {"eval_every": 1_000, "checkpoint_every": 1_000},
        }
    )
