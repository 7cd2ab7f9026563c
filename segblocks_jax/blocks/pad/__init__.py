"""block_pad: pads every block with the pixels around it, whatever its neighbours' resolution."""

from segblocks_jax.blocks.pad.api import PaddedBlocks, block_pad

__all__ = ["PaddedBlocks", "block_pad"]
