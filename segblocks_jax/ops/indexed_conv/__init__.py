"""Convolution of packed pixel lists whose rows are found by index."""

from segblocks_jax.ops.indexed_conv.api import indexed_conv
from segblocks_jax.ops.indexed_conv.operands import (
    Epilogue,
    PackedKernel,
    pack_kernel,
    winograd_stride,
)

__all__ = ["Epilogue", "PackedKernel", "indexed_conv", "pack_kernel", "winograd_stride"]
