"""combine: blocks back to images. Low blocks are upsampled, each alone."""

from segblocks_jax.blocks.combine.api import combine

__all__ = ["combine"]
