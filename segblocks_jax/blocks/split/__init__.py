"""split: images to blocks. High blocks are copied, low ones averaged."""

from segblocks_jax.blocks.split.api import split

__all__ = ["split"]
