"""A narrow hourglass with masks on procedural stick figures: no download.

    python -m segblocks_jax.experiments.mpii --config=experiments/configs/mpii/quickstart.py --workdir=DIR

Hardware: two CPU cores. Result: 65.4% PCKh@0.5 of 100 figures with 45% of the blocks' operations; in 40 minutes
beside other work on both cores.
"""

import ml_collections

from segblocks_jax.experiments.defaults import config


def get_config() -> ml_collections.ConfigDict:
    """One stack with a quarter of the channels, half of the operations, crops of 64 pixels, 1500 steps.

    Figures stand upright, so crops aren't turned, and little changed in size.
    """
    return config(
        {
            "system": "dynconv_pose",
            "name": "figures_quickstart",
            "data": {
                **{"crop": (64, 64), "sigma": 1, "figures": (1000, 100), "figure_size": (96, 96)},
                **{"rotated": 0.0, "scale": 0.1},
            },
            "model": {"width": 0.25, "stacks": 1},
            "masks": {"target": 0.5},
            "optim": {"batch_size": 16, "steps": 1500, "learning_rate": 4e-3},
            "loop": {"eval_every": 500, "checkpoint_every": 500, "log_every": 20},
        }
    )
