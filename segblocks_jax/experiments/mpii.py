"""Human pose: MPII, and procedural stick figures.

python -m segblocks_jax.experiments.mpii --config=experiments/configs/mpii/quickstart.py \
    --workdir=DIR [--mode=train|eval|speed|predict|export] [--config.optim.steps=200]
"""

from segblocks_jax.errors import extra

with extra("train", "an experiment"):
    from segblocks_jax.data.pose.source import DATASETS
    from segblocks_jax.experiments.run import main

if __name__ == "__main__":
    main(DATASETS, "dynconv_pose")
