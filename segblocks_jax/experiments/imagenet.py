"""ImageNet, parts of it and other folders of images, and procedural shapes.

python -m segblocks_jax.experiments.imagenet --config=experiments/configs/imagenet/quickstart.py \
    --workdir=DIR [--mode=train|eval|speed|predict|export] [--data_dir=FOLDER]
"""

from segblocks_jax.errors import extra

with extra("train", "an experiment"):
    from segblocks_jax.data.classification.datasets import family
    from segblocks_jax.experiments.run import main

DATASETS = family("imagenet")

if __name__ == "__main__":
    main(DATASETS)
