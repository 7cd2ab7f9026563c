"""Layers that take an image (n, h, w, c) or a `DualRes`, and give back the same kind."""

from segblocks_jax.nn.block_size import block_multiple as block_multiple
from segblocks_jax.nn.block_size import check_blocks as check_blocks
from segblocks_jax.nn.block_size import smallest_block as smallest_block
from segblocks_jax.nn.dropout import Dropout as Dropout
from segblocks_jax.nn.dropout import dropout_key as dropout_key
from segblocks_jax.nn.dropout import fold_in as fold_in
from segblocks_jax.nn.dropout import image_keys as image_keys
from segblocks_jax.nn.dropout import uniform as uniform
from segblocks_jax.nn.layers import BatchNorm as BatchNorm
from segblocks_jax.nn.layers import Conv as Conv
from segblocks_jax.nn.layers import synchronize as synchronize
from segblocks_jax.nn.layers import synchronized_batch_norm as synchronized_batch_norm
from segblocks_jax.nn.regions import BlockOptions as BlockOptions
from segblocks_jax.nn.regions import Semantics as Semantics
from segblocks_jax.nn.regions import on_full_image as on_full_image
from segblocks_jax.nn.regions import pointwise as pointwise
from segblocks_jax.nn.resampling import adaptive_average_pool as adaptive_average_pool
from segblocks_jax.nn.resampling import at_scale as at_scale
from segblocks_jax.nn.resampling import max_pool as max_pool
from segblocks_jax.nn.resampling import resize_bilinear as resize_bilinear
from segblocks_jax.nn.resampling import scaled_multiple as scaled_multiple
from segblocks_jax.nn.resampling import scaled_size as scaled_size
from segblocks_jax.nn.resampling import upsample2 as upsample2
from segblocks_jax.nn.scope import rematerialization as rematerialization
from segblocks_jax.nn.scope import rematerialized as rematerialized
from segblocks_jax.nn.scope import scope as scope
