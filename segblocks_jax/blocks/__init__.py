"""The dual-resolution representation of images in blocks, and the operations on it."""

from segblocks_jax.blocks.conv import block_conv as block_conv
from segblocks_jax.blocks.grid import BlockGrid as BlockGrid
from segblocks_jax.blocks.grid import DualRes as DualRes
from segblocks_jax.blocks.pad import PaddedBlocks as PaddedBlocks
from segblocks_jax.blocks.pad import block_pad as block_pad
from segblocks_jax.blocks.split import combine as combine
from segblocks_jax.blocks.split import split as split
