"""LRNNet on CamVid, from scratch, in blocks of 64 pixels, 40% of them high.

    python -m segblocks_jax.experiments.camvid --config=experiments/configs/camvid/lrnnet_reinforce40_cpu.py \
        --data_dir=FOLDER --workdir=DIR

Hardware: two CPU cores. Result, one seed: 35.8% mIoU at 49.0% high blocks, 2.07 GMACs per image
(experiments/results/camvid_lrnnet_reinforce40_cpu.json). Time: 55 minutes, most of them with other work on the cores.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """The budget and the blocks of `rn18_reinforce40_cpu.py`, and smaller dilations than published."""
    return config(
        {
            "name": "camvid_lrnnet_reinforce40_cpu",
            "data": {"dataset": "camvid", "crop": (256, 256)},
            "model": {"name": "lrnnet", "dilations": (1, 2, 3, 4, 2, 3, 4, 4), "dropout": 0.0},
            "policy": {"name": "reinforce", "reward": "loss", "block_size": 64, "target": 0.4},
            "optim": {"batch_size": 8, "steps": 1_500, "learning_rate": 1e-3},
            "loop": {"eval_every": 500, "checkpoint_every": 500, "log_every": 20},
        }
    )
