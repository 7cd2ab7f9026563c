"""The base of ablations on CamVid with two CPU cores: see `experiments/ablations`.

    python -m segblocks_jax.experiments.camvid --config=experiments/configs/camvid/ablations_cpu.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: two CPU cores. Result: docs/ablations.md. Time: in its records.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """The recipe of `rn18_reinforce40_cpu.py` with a third of its steps, so that a sweep ends within hours."""
    return config(
        {
            "name": "camvid_ablations_cpu",
            "data": {"dataset": "camvid", "crop": (256, 256)},
            "model": {"name": "swiftnet_rn18", "width": 32, "features": 64},
            "policy": {"name": "reinforce", "reward": "loss", "block_size": 64, "target": 0.4},
            "optim": {"batch_size": 8, "steps": 500, "learning_rate": 1e-3},
            "loop": {
                "eval_every": 500,
                "checkpoint_every": 250,
                "log_every": 20,
                "keep_checkpoints": 1,
            },
        }
    )
