"""Convolution of blocks as if they were one image, and of images on the same kernels."""

from segblocks_jax.blocks.conv.api import CONV_IMPLEMENTATIONS, block_conv, image_conv
from segblocks_jax.blocks.conv.epilogue import Epilogue
from segblocks_jax.blocks.conv.indexed import indexed_conv
from segblocks_jax.blocks.conv.packed import PackedKernel, pack_kernel, winograd_stride
from segblocks_jax.blocks.conv.patches import IndexPatches, image_patches, index_patches

__all__ = [
    "CONV_IMPLEMENTATIONS",
    "Epilogue",
    "IndexPatches",
    "PackedKernel",
    "block_conv",
    "image_conv",
    "image_patches",
    "index_patches",
    "indexed_conv",
    "pack_kernel",
    "winograd_stride",
]
