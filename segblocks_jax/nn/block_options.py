"""BlockOptions: the points in which this library's definition of the method and the authors' code differ."""

import dataclasses
from typing import Literal, get_args, get_type_hints

from segblocks_jax.errors import InputError
from segblocks_jax.ops.checks import no_type_check


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
        ignored: pixels of the ignored label. "excluded" leaves them out of every mean; "counted" takes
            their loss as 0 and divides by all pixels (the authors).
    """

    interpolation: Literal["halo", "block"] = "halo"
    batch_norm: Literal["joint", "per_resolution"] = "joint"
    low_upsampling: Literal["bilinear", "nearest"] = "bilinear"
    filling: Literal["best", "random"] = "best"
    ignored: Literal["excluded", "counted"] = "excluded"
    padding: Literal["block", "zero", "clamp"] = "block"

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
