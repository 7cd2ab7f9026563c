"""CIFAR-10 and CIFAR-100, folders of small images, and procedural shapes.

python -m segblocks_jax.experiments.cifar --config=experiments/configs/cifar/quickstart.py \
    --workdir=DIR [--mode=train|eval|speed|predict|export] [--config.optim.steps=200]
"""

from segblocks_jax.errors import extra

with extra("train", "an experiment"):
    from segblocks_jax.data.classification.datasets import family
    from segblocks_jax.experiments.run import main

DATASETS = family("cifar")

if __name__ == "__main__":
    main(DATASETS)
