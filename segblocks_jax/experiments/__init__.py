"""Entry points: ``python -m segblocks_jax.experiments.NAME --config=FILE --workdir=DIR``."""
