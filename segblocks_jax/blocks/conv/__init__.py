"""block_conv: convolution of blocks as if they were one image."""

from segblocks_jax.blocks.conv.api import block_conv
from segblocks_jax.blocks.conv.reference import valid_convolution

__all__ = ["block_conv", "valid_convolution"]
