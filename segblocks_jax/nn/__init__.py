"""Layers that take an image (n, h, w, c) or a `DualRes`, and give back the same kind."""

from segblocks_jax.nn.batch_norm import BatchNorm, synchronized_batch_norm
from segblocks_jax.nn.block_options import BlockOptions, Semantics
from segblocks_jax.nn.block_size import block_multiple, check_blocks, smallest_block
from segblocks_jax.nn.conv import Conv
from segblocks_jax.nn.dropout import Dropout, dropout_key
from segblocks_jax.nn.pool import adaptive_average_pool, max_pool
from segblocks_jax.nn.random import fold_in, image_keys, uniform
from segblocks_jax.nn.regions import on_full_image, pointwise
from segblocks_jax.nn.remat import rematerialization, rematerialized
from segblocks_jax.nn.resize import (
    at_scale,
    resize_bilinear,
    scaled_multiple,
    scaled_size,
    upsample2,
)
from segblocks_jax.nn.scope import scope

__all__ = [
    "BatchNorm",
    "BlockOptions",
    "Conv",
    "Dropout",
    "Semantics",
    "adaptive_average_pool",
    "at_scale",
    "block_multiple",
    "check_blocks",
    "dropout_key",
    "fold_in",
    "image_keys",
    "max_pool",
    "on_full_image",
    "pointwise",
    "rematerialization",
    "rematerialized",
    "resize_bilinear",
    "scaled_multiple",
    "scaled_size",
    "scope",
    "smallest_block",
    "synchronized_batch_norm",
    "uniform",
    "upsample2",
]
