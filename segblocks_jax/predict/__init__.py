"""The command ``python -m segblocks_jax.predict``."""
