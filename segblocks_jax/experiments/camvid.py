"""CamVid.

python -m segblocks_jax.experiments.camvid --config=experiments/configs/camvid/rn18_static.py \
    --data_dir=FOLDER --workdir=DIR [--mode=train|eval|speed|predict|export]
"""

from segblocks_jax.errors import extra

with extra("train", "an experiment"):
    from segblocks_jax.data.datasets import family
    from segblocks_jax.experiments.run import main

DATASETS = family("camvid")

if __name__ == "__main__":
    main(DATASETS)
