"""Cityscapes, and the street scenes that have its classes and layout.

python -m segblocks_jax.experiments.cityscapes --config=experiments/configs/cityscapes/quickstart.py \
    --workdir=DIR [--mode=train|eval|speed|predict|export] [--config.policy.target=0.2]
"""

from segblocks_jax.errors import extra

with extra("train", "an experiment"):
    from segblocks_jax.data.datasets import family
    from segblocks_jax.experiments.run import main

DATASETS = family("cityscapes")

if __name__ == "__main__":
    main(DATASETS)
