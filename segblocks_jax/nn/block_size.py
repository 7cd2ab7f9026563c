"""The smallest blocks that a network can run on, found by following its layers with a probe."""

import dataclasses
import fractions
import math
from collections.abc import Callable
from typing import Any, final

from segblocks_jax.blocks import DualRes
from segblocks_jax.errors import InputError
from segblocks_jax.nn.scope import rematerialization

UNIT = 32
"""Sides of blocks are multiples of so many image pixels, whatever the network: policies count in them."""


@dataclasses.dataclass(frozen=True)
class _Window:
    """What a layer reads; `side` is that of its input over that of the image."""

    side: fractions.Fraction
    stride: int


@final
@dataclasses.dataclass(frozen=True)
class Probe:
    """Stands for features of which only the side is known, over that of the image; layers note what they read."""

    side: fractions.Fraction = fractions.Fraction(1)
    windows: list[_Window] = dataclasses.field(default_factory=list)

    def through(self, stride: int, upsampling: int = 1) -> "Probe":
        """The probe behind a layer that reads windows."""
        self.windows.append(_Window(self.side, stride))
        return dataclasses.replace(self, side=self.side * upsampling / stride)


def block_multiple(net: Callable[[Any], Any], low_factor: int = 2) -> int:
    """The number of image pixels that sides of a network's blocks must be multiples of.

    At every layer a low block then has whole pixels; how far the layer pads is no matter.

    Args:
        net: a network that uses features through the layers and functions of `segblocks_jax.nn` alone.
        low_factor: side of a high block over the side of a low one.
    """
    probe = Probe()
    with rematerialization(False):
        net(probe)
    # Image pixels along a side of what a layer's window moves by in a low block.
    steps = (low_factor * window.stride / window.side for window in probe.windows)
    return math.lcm(UNIT, *(step.numerator for step in steps))


def smallest_block(net: Callable[[Any], Any], low_factor: int = 2) -> int:
    """The smallest side of a network's blocks, in image pixels: `block_multiple`."""
    return block_multiple(net, low_factor)


def check_blocks(net: Callable[[Any], Any], blocks: DualRes) -> None:
    """Raises InputError where blocks of an image don't have a size that the network can run on."""
    side, factor = blocks.block_size, blocks.grid.low_factor
    multiple = block_multiple(net, factor)
    if blocks.grid.num_blocks and (side < 1 or side % multiple):
        raise InputError(
            f"{type(net).__name__}: blocks of {side} x {side} pixels; the network needs a multiple of"
            f" {multiple}, so that a low block (1/{factor} of the side) has whole pixels at every layer; use"
            f" blocks of {max(1, -(-side // multiple)) * multiple}, by a coarser mask"
        )
