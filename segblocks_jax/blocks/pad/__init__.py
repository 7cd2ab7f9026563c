"""block_pad: pads every block with the pixels around it, whatever its neighbors' resolution."""

from segblocks_jax.blocks.pad.api import PADDING_MODES, PaddedBlocks, block_pad

__all__ = ["PADDING_MODES", "PaddedBlocks", "block_pad"]
