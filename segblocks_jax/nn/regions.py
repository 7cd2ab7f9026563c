"""Functions of pixels, and functions of the whole image, on images and blocks alike."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from jaxtyping import Array, Float

from segblocks_jax.blocks import DualRes, combine, split
from segblocks_jax.nn.block_options import BlockOptions
from segblocks_jax.nn.block_size import Probe
from segblocks_jax.nn.recording import recordable
from segblocks_jax.nn.scope import full_image_region

Maps = TypeVar("Maps", Float[Array, "n _h _w _c"], DualRes)
"""An image or blocks; where a function takes one, it gives back the same."""

Features = TypeVar("Features", Float[Array, "n _h _w _c"], DualRes, Probe)
"""`Maps`, or what stands for them where `segblocks_jax.nn.block_multiple` follows a network."""


@recordable
def pointwise(function: Callable[..., Array], *features: Features) -> Features:
    """Applies a function that treats every pixel alike, e.g. an activation or a sum.

    Args:
        function: of as many arrays as there are features; keeps all axes but the last.
        *features: images, or blocks of one grid and size.
    """
    if isinstance(features[0], Probe):
        return features[0]
    if not isinstance(features[0], DualRes):
        return function(*features)
    return dataclasses.replace(features[0], pixels=function(*(x.pixels for x in features)))


@recordable
def on_full_image(
    function: Callable[[Array], Array], features: Features, semantics: BlockOptions
) -> Features:
    """Runs a function of the whole image: blocks are combined before and split again after."""
    if isinstance(features, Probe):
        return features
    with full_image_region():
        if not isinstance(features, DualRes):
            return function(features)
        image = function(combine(features, semantics.low_upsampling))
        return split(image, features.grid)
