"""Your own data: folders of images and label PNGs, with a dataset.yaml that says what labels mean (docs/data.md).

python -m segblocks_jax.experiments.custom --config=experiments/configs/custom/efflite1_static.py \
    --data_dir=FOLDER --workdir=DIR [--mode=train|eval|speed|predict|export]
"""

from segblocks_jax.errors import extra

with extra("train", "an experiment"):
    from segblocks_jax.data.datasets import family
    from segblocks_jax.experiments.run import main

DATASETS = family("folders")

if __name__ == "__main__":
    main(DATASETS)
