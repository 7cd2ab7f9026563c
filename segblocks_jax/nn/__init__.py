"""Layers that take an image (n, h, w, c) or a `DualRes`, and give back the same kind."""

from segblocks_jax.nn.batch_norm import BatchNorm
from segblocks_jax.nn.conv import Conv
from segblocks_jax.nn.dropout import Dropout, dropout_key
from segblocks_jax.nn.pool import adaptive_average_pool, max_pool
from segblocks_jax.nn.random import fold_in, image_keys, uniform
from segblocks_jax.nn.reduced_non_local import ReducedNonLocal, dominant_vectors
from segblocks_jax.nn.regions import map_pixels, whole_image
from segblocks_jax.nn.remat import rematerialisation, rematerialised
from segblocks_jax.nn.resize import (
    at_scale,
    resize_bilinear,
    scaled_multiple,
    scaled_size,
    upsample2,
)
from segblocks_jax.nn.scope import scope
from segblocks_jax.nn.semantics import Semantics

__all__ = [
    "BatchNorm",
    "Conv",
    "Dropout",
    "ReducedNonLocal",
    "Semantics",
    "adaptive_average_pool",
    "at_scale",
    "dominant_vectors",
    "dropout_key",
    "fold_in",
    "image_keys",
    "map_pixels",
    "max_pool",
    "rematerialisation",
    "rematerialised",
    "resize_bilinear",
    "scaled_multiple",
    "scaled_size",
    "scope",
    "uniform",
    "upsample2",
    "whole_image",
]
