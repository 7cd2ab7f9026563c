"""Mapillary Vistas.

python -m segblocks_jax.experiments.mapillary --config=FILE --data_dir=FOLDER --workdir=DIR \
    [--mode=train|eval|speed|predict|export]
"""

from segblocks_jax.errors import extra

with extra("train", "an experiment"):
    from segblocks_jax.data.datasets import family
    from segblocks_jax.experiments.run import main

DATASETS = family("mapillary")

if __name__ == "__main__":
    main(DATASETS)
