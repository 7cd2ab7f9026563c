"""The dual-resolution representation of images in blocks, and the operations on it."""

from segblocks_jax.blocks.combine import combine
from segblocks_jax.blocks.conv import block_conv
from segblocks_jax.blocks.dual_res import DualRes
from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.blocks.pad import PaddedBlocks, block_pad
from segblocks_jax.blocks.split import split

__all__ = [
    "BlockGrid",
    "DualRes",
    "PaddedBlocks",
    "block_conv",
    "block_pad",
    "combine",
    "split",
]
