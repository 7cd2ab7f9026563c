"""How networks run in blocks: their options, and functions of pixels and of the whole image on either kind."""

import dataclasses
from collections.abc import Callable
from typing import Literal, TypeVar, get_args, get_type_hints

from jaxtyping import Array, Float

from segblocks_jax.blocks import DualRes, combine, split
from segblocks_jax.errors import InputError
from segblocks_jax.nn.block_size import Probe
from segblocks_jax.nn.scope import full_image_region, recordable
from segblocks_jax.ops import no_type_check


@no_type_check
@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """How a network runs in blocks. The defaults make an all-high grid equal the dense network.

    Attributes:
        interpolation: x2 upsampling inside the network. "halo" reads the neighboring blocks, so no
            seams appear; "block" upsamples each block alone with clamped edges (the authors).
        padding: of convolutions and poolings in blocks. "block" reads the neighbors (BlockPad); to see
            what that is worth, "zero" and "clamp" treat each block alone, see `segblocks_jax.block_pad`.
        batch_norm: batch statistics in training. "joint" takes them over all pixels, high and low;
            "per_resolution" normalizes high and low blocks each by their own, and updates the running
            ones with pixel-weighted means (the authors).
        low_upsampling: of low blocks where blocks are combined, each block alone.
        filling: which low blocks turn high where the number of high blocks is rounded up. "best" takes
            the best-scored ones, without policy gradient; "random" any, with gradient (the authors).
        image_statistics: of traced networks (`segblocks_jax.in_blocks`), sums over all pixels of an image, as of
            group norms and global pooling. "area" counts a low block's pixel as often as it has pixels of the
            image, "pixels" all alike. Means of all images, of batch norm, are `batch_norm`'s.
        ignored: pixels of the ignored label. "excluded" leaves them out of every mean; "counted" takes
            their loss as 0 and divides by all pixels (the authors).
    """

    interpolation: Literal["halo", "block"] = "halo"
    batch_norm: Literal["joint", "per_resolution"] = "joint"
    low_upsampling: Literal["bilinear", "nearest"] = "bilinear"
    filling: Literal["best", "random"] = "best"
    ignored: Literal["excluded", "counted"] = "excluded"
    padding: Literal["block", "zero", "clamp"] = "block"
    image_statistics: Literal["area", "pixels"] = "area"

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if value not in get_args(kind):
                raise InputError(
                    f"BlockOptions: {name} is {value!r}; expected one of {get_args(kind)}"
                )

    @classmethod
    def authors(cls) -> "BlockOptions":
        """The semantics of the published code, which its checkpoints were trained with."""
        return cls("block", "per_resolution", "bilinear", "random", "counted")


Semantics = BlockOptions
"""The name of `BlockOptions` up to version 0.1."""


Maps = TypeVar("Maps", Float[Array, "n _h _w _c"], DualRes)
"""An image or blocks; where a function takes one, it gives back the same."""

Features = TypeVar("Features", Float[Array, "n _h _w _c"], DualRes, Probe)
"""`Maps`, or what stands for them where `segblocks_jax.nn.block_multiple` follows a network."""


@recordable
def pointwise(function: Callable[..., Array], *features: Features) -> Features:
    """Applies a function that treats every pixel alike, e.g. an activation or a sum.

    It takes an array for each of the features, which are images, or blocks of one grid and size, and keeps
    all axes but the last.
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
